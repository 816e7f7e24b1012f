"""What watching costs, looks and a film of 60 epochs of 4 pictures, and what following queries is for.

    python benchmarks/watching.py looks           # the demo's training for two epochs: its own looks, in one process
    python benchmarks/watching.py film RUN        # a film of RUN's looks, repeated to 60 moments, of 4 pictures
    python benchmarks/watching.py tracks RUN      # how often a query's box jumps, by its number and followed

The first two count seconds of CPU of the one process, which a busy machine stretches less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import detrscope as ds
from detrscope.commands import timelapse as films
from detrscope.lens.query_tracks import follow
from detrscope.recording.recorder import SnapshotRecorder, load_recording

EPOCHS, PICTURES = 60, 4


def looks() -> None:
    spent = {"looks": 0.0, "count": 0.0}
    real = SnapshotRecorder.__call__

    def timed(self: SnapshotRecorder, *args: Any) -> None:
        start = time.process_time()
        real(self, *args)
        spent["looks"] += time.process_time() - start
        spent["count"] += 1

    SnapshotRecorder.__call__ = timed  # type: ignore[method-assign]
    steps: list[float] = []
    from detrscope.training.train_step import TrainStep

    step = TrainStep.step

    def timed_step(self: TrainStep, *args: Any) -> Any:
        start = time.process_time()
        values = step(self, *args)
        steps.append(time.process_time() - start)
        return values

    TrainStep.step = timed_step  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        ds.train(
            preset="drawn-dogs",
            data="drawn-dogs:count=2000,val=300,size=128",
            out=Path(folder) / "run",
            overrides={"train.max_steps": 250, "data.val_split": "val", "train.evaluate_every": 100},
        )
    each, a_step = spent["looks"] / spent["count"], sum(steps) / len(steps)
    per_epoch = each * 125 / 50
    print(
        f"{torch.get_num_threads()} threads; a look at 6 pictures {each:.3f} s, a step {a_step:.3f} s of CPU"
    )
    print(
        f"an epoch: 125 steps {125 * a_step:.1f} s, 2.5 looks {per_epoch:.2f} s: {per_epoch / a_step / 1.25:.1f}%"
    )


def film(run: str) -> None:
    watched = load_recording(run)
    names = list(watched.images)[:PICTURES]
    moments = [watched.moments[i * len(watched.moments) // EPOCHS] for i in range(EPOCHS)]
    images = {name: watched.images[name] for name in names}
    sixty = replace(watched, images=images, moments=moments)
    films.load_recording = lambda run: sixty  # type: ignore[assignment]
    for view in ("final", "boxes", "plain", "queries"):
        with tempfile.TemporaryDirectory() as folder:
            cpu, wall = time.process_time(), time.perf_counter()
            paths = ds.timelapse(run, folder, view=view)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        count = sum(path.suffix == ".mp4" for path in paths)
        print(f"{view}: {count} film(s) of {EPOCHS} moments: {cpu:.1f} s of CPU, {wall:.1f} s on the wall")


def tracks(run: str) -> None:
    """Moves of the middle of a box by more than a fifth of the image between two looks, of the four best queries."""
    watched = load_recording(run)
    jumps: dict[str, list[bool]] = {"by number": [], "followed": []}
    for name, image in watched.images.items():
        seen, scoring = watched.looks(name), image.card.scoring
        followed = follow(seen, scoring)  # [T, n]
        for track in seen[-1].scores(scoring).amax(1).argsort(descending=True)[:4].tolist():
            number = seen[-1].query_ids[track]
            same = [
                (look.query_ids == number).nonzero().flatten()[:1] for look in seen
            ]  # none where it was not kept
            for kind, places in (("by number", same), ("followed", followed[:, track, None])):
                middles = [look.boxes()[place, :2] for look, place in zip(seen, places, strict=True)]
                jumps[kind] += [bool((b - a).norm() > 0.2) for a, b in pairwise(middles) if len(a) and len(b)]
    for kind, found in jumps.items():
        print(f"{kind}: {sum(found)} of {len(found)} moves, {100 * sum(found) / len(found):.0f}%")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["looks", "film", "tracks"])
    parser.add_argument("run", nargs="?", default="")
    given = parser.parse_args()
    if given.what == "looks":
        looks()
    else:
        {"film": film, "tracks": tracks}[given.what](given.run)
