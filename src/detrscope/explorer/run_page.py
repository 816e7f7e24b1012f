"""A recorded training as the page shows it: each probe image at each step, and the curves of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.core.snapshot import Recording
from detrscope.core.trace_data import TraceData
from detrscope.explorer.bundle import page_html
from detrscope.explorer.payload import MAX_BYTES, Payload, StoredQueries, record_bytes, trace_payload
from detrscope.lens.query_tracks import track_queries
from detrscope.views.timelapse.curves import Curves

ROOM = 24_000_000  # bytes of the records in a file


@dataclass(frozen=True, eq=False)
class RunPage:
    """A recorded training for the page.

    Attributes:
        recording: its snapshots and metrics.
        path: run folder, as the commands that the page gives name it.
    """

    recording: Recording
    path: str

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Names of the probe images."""
        return tuple(self.recording.images)

    @cached_property
    def _tracks(self) -> dict[str, torch.Tensor]:
        return {}

    def info(self, steps: Sequence[int] | None = None) -> dict[str, Any]:
        """Return name, images, steps and curves as JSON values.

        Args:
            steps: indices of the snapshots that the page has; None is all of them.
        """
        chosen = range(len(self.recording.steps)) if steps is None else steps
        curves = Curves.of(self.recording)
        return {
            "name": self.recording.name,
            "path": self.path,
            "images": self.images,
            "steps": [
                {"step": self.recording.steps[i].step, "epoch": round(self.recording.steps[i].epoch, 4)}
                for i in chosen
            ],
            "of": len(self.recording.steps),
            "charts": [
                {
                    "title": title,
                    "lines": [
                        {
                            "label": line.label,
                            "points": [point for point in line.points if math.isfinite(point[1])],
                            "dashed": line.dashed,
                        }
                        for line in lines
                        if line.points
                    ],
                }
                for title, lines in curves.charts.items()
            ],
        }

    def base(self, image: int) -> Payload:
        """Return a probe image without attention: its pixels and what is annotated in it."""
        return trace_payload(self._image(image))

    def step(self, image: int, step: int, *, max_bytes: int = MAX_BYTES) -> Payload:
        """Return what the model predicted in a probe image, and where it looked, at a snapshot; without the pixels.

        Args:
            image: index of the image.
            step: index of the snapshot.
            max_bytes: room for the records; the last layers are kept.

        Raises:
            UserError: no such image or snapshot.
        """
        base, steps = self._image(image), self.recording.steps
        if not 0 <= step < len(steps):
            raise UserError(f"snapshot {step}: expected 0 to {len(steps) - 1}")
        name = self.images[image]
        if name not in self._tracks:
            self._tracks[name] = track_queries(self.recording.traces(name))
        snapshot, last = steps[step].snapshots[name], steps[-1].snapshots[name]
        notes = {"step": steps[step].step, "epoch": round(steps[step].epoch, 4)}
        stored = StoredQueries(
            snapshot.query_ids.tolist(),
            _following(self._tracks[name][step], last.query_ids).tolist(),
            snapshot.mean_rows,
        )
        trace = replace(snapshot.trace(base), notes={**base.notes, **notes})
        return trace_payload(trace, max_bytes=max_bytes, with_image=False, stored=stored)

    def fitting_steps(self, room: int) -> list[int]:
        """Return the snapshots of which at least the last layer fits: evenly spaced, the last among them."""
        last = self.recording.steps[-1].snapshots
        most = max(record_bytes([*last[name].records.values()][-1]) for name in self.images)
        count, total = max(2, room // max(most * len(self.images), 1)), len(self.recording.steps)
        if total <= count:
            return [*range(total)]
        return sorted({round(i * (total - 1) / (count - 1)) for i in range(count)})

    def _image(self, image: int) -> TraceData:
        if not 0 <= image < len(self.images):
            raise UserError(f"image {image}: expected 0 to {len(self.images) - 1}")
        return self.recording.images[self.images[image]]


def _following(track: torch.Tensor, last_numbers: torch.Tensor) -> torch.Tensor:
    """Return for each stored query the number of the last snapshot's query that continues it: [n].

    Args:
        track: [n] the stored query of each query of the last snapshot.
        last_numbers: [n] indices in the model of the queries of the last snapshot.
    """
    following = torch.empty_like(last_numbers)
    following[track] = last_numbers
    return following


def write_run_page(pages: Sequence[RunPage], path: str | Path, *, room: int = ROOM) -> Path:
    """Write recorded trainings as one page that opens from disk, offline.

    Args:
        pages: one run, or several to compare.
        path: such as `run.html`.
        room: bytes for the records of all runs; where they take more, the first layers are left out, then steps.

    Raises:
        UserError: no run.
    """
    if not pages:
        raise UserError("run page: expected at least one run")
    infos, payloads = [], []
    for number, page in enumerate(pages):
        steps = page.fitting_steps(room // len(pages))
        infos.append(page.info(steps))
        max_bytes = room // len(pages) // (len(steps) * len(page.images))
        for image in range(len(page.images)):
            payloads.append((f"{number} {image}", page.base(image).embedded()))
            payloads += [
                (f"{number} {image} {place}", page.step(image, step, max_bytes=max_bytes).embedded())
                for place, step in enumerate(steps)
            ]
    names = ", ".join(page.recording.name for page in pages)
    html = page_html(f"detrscope: {names}", payloads, {"runs": infos})
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return Path(path)
