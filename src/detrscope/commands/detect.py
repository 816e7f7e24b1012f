"""Detect in whatever the user has and write pictures, films, JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from torch import Tensor

from detrscope.commands.domain_warning import DomainWarning
from detrscope.console import atomic_write, log, progress
from detrscope.core.errors import UserError, WorkFailed, nearest
from detrscope.core.safe_text import csv_row
from detrscope.core.types import Detections
from detrscope.data.image_reader import ImageSource, read_image
from detrscope.inference.detector import Detector, load
from detrscope.inference.engine import Precision
from detrscope.inference.media import MediaSource, Video, VideoFrame, expand, is_url, warn_of_other_frames
from detrscope.views.canvas import ENDINGS, Drawing
from detrscope.views.detection_image import draw_detections
from detrscope.views.mp4 import write_mp4

if TYPE_CHECKING:
    import supervision
    from rich.progress import Progress

Look = Callable[[Tensor], Detections]
JSON, CSV = "detections.json", "detections.csv"
COLUMNS = ("source", "frame", "time", "x0", "y0", "x1", "y1", "score", "category_id", "name", "query_id")


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one picture, or in one frame of a clip."""

    source: str
    detections: Detections
    frame: int | None = None  # number in the clip, from 0
    time: float | None = None  # seconds into the clip
    note: str = (
        ""  # a warning that belongs to these detections, such as of a model that does not know photographs
    )

    def to_json(self) -> dict[str, Any]:
        """Plain data; boxes in pixels of the original upright picture."""
        d = self.detections
        place = {} if self.frame is None else {"frame": self.frame, "time": self.time}
        keys = ("box_xyxy", "score", "category_id", "name", "query_id")
        columns = (d.boxes_xyxy.tolist(), d.scores.tolist(), d.labels.tolist(), d.names, d.query_ids.tolist())
        rows = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        note = {"note": self.note} if self.note else {}
        return {
            "source": self.source,
            **place,
            **note,
            "width": d.width,
            "height": d.height,
            "detections": rows,
        }

    def to_rows(self) -> list[tuple[Any, ...]]:
        """One row of `COLUMNS` for each detection."""
        return [
            (
                self.source,
                self.frame,
                self.time,
                *r["box_xyxy"],
                r["score"],
                r["category_id"],
                r["name"],
                r["query_id"],
            )
            for r in self.to_json()["detections"]
        ]


def detect(
    model: str | Path | Detector,
    sources: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
    *,
    weights: str | Path | None = None,
    threshold: float = 0.7,
    show_names: Sequence[str] = (),
    out: str | Path | None = None,
    picture_format: str = "png",
    device: str = "auto",
    precision: Precision = "auto",
) -> list[ImageDetections]:
    """Detect in files, folders, globs, URLs, arrays and videos.

    A source that was named and cannot be read is an error before anything is written. What cannot be read in
    a folder or behind a glob is skipped and said.

    Args:
        model: variant, checkpoint, Hugging Face folder or id, or a `Detector`.
        sources: one or several of what `expand` understands.
        weights: for a variant that is not loaded yet: a file in place of the published one, or "random".
        threshold: the least score to keep, 0..1.
        show_names: keep these classes only; all of them where empty.
        out: folder for a picture (or an mp4 and a JSON-lines file of frames) per source, `detections.json`
            and `detections.csv`; None writes nothing.
        picture_format: png, jpg, webp, svg or pdf.
        device: where to run, for a model that is not loaded yet.
        precision: what to compute in, for a model that is not loaded yet.

    Returns:
        What was found, a `ImageDetections` for each picture and each frame.

    Raises:
        UserError: a wrong argument, or a named source that cannot be read.
        WorkFailed: nothing in a folder could be read.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {threshold}: expected a score between 0 and 1")
    todo = [_checked(s) for s in expand(sources if isinstance(sources, list | tuple) else [sources])]
    detector = (
        load(model, weights=weights, device=device, precision=precision)
        if isinstance(model, str | Path)
        else model
    )
    classes = detector.card.classes
    writer = None if out is None else _Writer(Path(out), picture_format, classes.names, todo)
    wanted = {classes.names[classes.index_of_name(name)] for name in show_names}
    domain = DomainWarning(model, weights)
    notes = {source.stem: domain.note(source.content, source.name) for source in todo}
    domain.warn()

    def look(image: Tensor) -> Detections:
        detections = detector.detect(image, threshold)
        assert isinstance(detections, Detections)  # of one image
        return _only(detections, wanted)

    found: list[ImageDetections] = []
    skipped = 0
    with progress() as bar:
        task = bar.add_task("detecting", total=len(todo))
        for source in todo:
            try:
                found += (
                    _in_clip(source, look, writer, bar, notes[source.stem])
                    if source.is_clip
                    else _in_picture(source, look, writer, notes[source.stem])
                )
            except UserError as error:
                if source.named:
                    raise
                skipped += 1
                log.warning(f"skipped: {error}")
            bar.advance(task)
    if skipped == len(todo):
        raise WorkFailed(f"none of the {skipped} pictures and videos could be read")
    if skipped:
        log.warning(f"{skipped} of {len(todo)} pictures and videos could not be read and were skipped")
    if writer:
        writer.tables(found)
    return found


def write_csv(file: TextIO, found: Sequence[ImageDetections]) -> None:
    """Write a heading and one line for each detection; names that a spreadsheet would compute get an apostrophe."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    writer.writerows(csv_row(row) for one in found for row in one.to_rows())


def to_supervision(detections: Detections) -> supervision.Detections:
    """Return the detections as those of `supervision`; class ids are the original category ids.

    Raises:
        UserError: supervision is not installed.
    """
    import numpy as np

    try:
        import supervision
    except ImportError:
        raise UserError(
            "supervision is not installed; it comes with `pip install 'detrscope[supervision]'`"
        ) from None

    return supervision.Detections(
        xyxy=detections.boxes_xyxy.numpy().astype(np.float32).reshape(-1, 4),
        confidence=detections.scores.numpy().astype(np.float32),
        class_id=detections.labels.numpy().astype(int),
        data={"class_name": np.array(detections.names, dtype=str), "query_id": detections.query_ids.numpy()},
    )


def _checked(source: MediaSource) -> MediaSource:
    """A named source after a first look: a bad one stops the work before it starts, a URL is fetched once."""
    if not source.named:
        return source
    if source.is_clip:
        with Video(str(source.content)) as clip:
            next(clip.frames())
        return source
    image = read_image(source.content)
    return replace(source, content=image) if is_url(source.content) else source


def _only(detections: Detections, wanted: set[str]) -> Detections:
    """The detections of some classes; all of them where `wanted` is empty."""
    if not wanted:
        return detections
    keep = [i for i, name in enumerate(detections.names) if name in wanted]
    return replace(
        detections,
        boxes_xyxy=detections.boxes_xyxy[keep],
        scores=detections.scores[keep],
        labels=detections.labels[keep],
        names=tuple(detections.names[i] for i in keep),
        query_ids=detections.query_ids[keep],
    )


def _in_picture(source: MediaSource, look: Look, writer: _Writer | None, note: str) -> list[ImageDetections]:
    image = read_image(source.content)
    warn_of_other_frames(source)
    found = ImageDetections(source.name, replace(look(image), source=source.name), note=note)
    if writer:
        writer.picture(source, image, found)
    return [found]


def _in_clip(
    source: MediaSource, look: Look, writer: _Writer | None, bar: Progress, note: str
) -> list[ImageDetections]:
    """Frame by frame; what is written appears when the last frame is done."""
    found: list[ImageDetections] = []
    with ExitStack() as stack:
        clip = stack.enter_context(Video(str(source.content)))
        task = bar.add_task(Path(source.name).name, total=clip.length)
        stack.callback(bar.remove_task, task)
        add = stack.enter_context(writer.clip(source, clip.rate)) if writer else None
        for frame in clip.frames():
            detections = replace(look(frame.image), source=source.name)
            found.append(
                ImageDetections(source.name, detections, frame.index, round(float(frame.time), 6), note)
            )
            if add:
                add(frame, found[-1])
            bar.advance(task)
        if losses := clip.losses():
            log.warning("%s", losses)
    return found


class _Writer:
    """The files of `out`."""

    def __init__(
        self, folder: Path, picture_format: str, classes: Sequence[str], sources: Sequence[MediaSource]
    ) -> None:
        ending = f".{picture_format}"
        if ending not in ENDINGS:
            raise UserError(f"format '{picture_format}': {nearest(picture_format, [e[1:] for e in ENDINGS])}")
        if folder.is_file():
            raise UserError(f"{folder}: is a file; --out must name a folder")
        self._folder, self._ending, self._classes = folder, ending, classes
        for source in sources:
            target = self._path(source, ".mp4" if source.is_clip else ending)
            if isinstance(source.content, str | Path) and target.resolve() == Path(source.content).resolve():
                raise UserError(f"{target}: would be written over; choose another --out")

    def picture(self, source: MediaSource, image: Tensor, found: ImageDetections) -> None:
        self._draw(image, found).save(self._path(source, self._ending))

    @contextmanager
    def clip(
        self, source: MediaSource, rate: Fraction
    ) -> Iterator[Callable[[VideoFrame, ImageDetections], None]]:
        """An mp4 with boxes and a line of JSON for each frame."""
        with (
            write_mp4(self._path(source, ".mp4"), rate) as add,
            atomic_write(self._path(source, ".jsonl")) as temporary,
            open(temporary, "w", encoding="utf-8") as lines,
        ):

            def add_both(frame: VideoFrame, found: ImageDetections) -> None:
                add(self._draw(frame.image, found).pixels(), frame.time)
                lines.write(json.dumps(found.to_json()) + "\n")

            yield add_both

    def tables(self, found: Sequence[ImageDetections]) -> None:
        """Write all pictures and frames to one JSON file and to one CSV file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._folder / JSON) as path:
            path.write_text(json.dumps([one.to_json() for one in found], indent=1) + "\n", encoding="utf-8")
        with atomic_write(self._folder / CSV) as path, open(path, "w", newline="", encoding="utf-8") as file:
            write_csv(file, found)

    def _draw(self, image: Tensor, found: ImageDetections) -> Drawing:
        return draw_detections(image, found.detections, classes=self._classes, title=found.note)

    def _path(self, source: MediaSource, ending: str) -> Path:
        return self._folder / f"{source.stem}{ending}"
