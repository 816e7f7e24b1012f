"""Cost of recording: snapshots, and films of 60 snapshots of 4 images; and how much tracking queries helps.

    python benchmarks/recording.py snapshots      # the demo's training for two epochs with its own snapshots
    python benchmarks/recording.py film RUN       # films of RUN's snapshots, repeated to 60, of 4 images
    python benchmarks/recording.py tracks RUN     # how often a query's box jumps, by its index and tracked

The first two count seconds of CPU of the one process, which a busy machine stretches less than the wall clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import detrscope as ds
from detrscope.commands import timelapse as films
from detrscope.lens.query_tracks import track_queries
from detrscope.recording.recorder import SnapshotRecorder, load_recording
from detrscope.training.train_step import TrainStep

SNAPSHOTS, IMAGES = 60, 4


def timed(method: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        start = time.process_time()
        result = method(*args)
        seconds.append(time.process_time() - start)
        return result

    return call


def snapshots() -> None:
    snapshot_times: list[float] = []
    step_times: list[float] = []
    SnapshotRecorder.__call__ = timed(SnapshotRecorder.__call__, snapshot_times)  # type: ignore[method-assign]
    TrainStep.step = timed(TrainStep.step, step_times)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        ds.train(
            preset="drawn-dogs",
            data="drawn-dogs:count=2000,val=300,size=128",
            out=Path(folder) / "run",
            overrides={"train.max_steps": 250, "data.val_split": "val", "train.evaluate_every": 100},
        )
    snapshot, step = (sum(times) / len(times) for times in (snapshot_times, step_times))
    per_epoch = snapshot * 125 / 50
    print(
        f"{torch.get_num_threads()} threads; a snapshot of 6 images {snapshot:.3f} s, a step {step:.3f} s of CPU"
    )
    print(
        f"an epoch: 125 steps {125 * step:.1f} s, 2.5 snapshots {per_epoch:.2f} s: {per_epoch / step / 1.25:.1f}%"
    )


def film(run: str) -> None:
    recording = load_recording(run)
    images = {name: recording.images[name] for name in list(recording.images)[:IMAGES]}
    steps = [recording.steps[i * len(recording.steps) // SNAPSHOTS] for i in range(SNAPSHOTS)]
    sixty = replace(recording, images=images, steps=steps)
    films.load_recording = lambda run: sixty  # type: ignore[assignment]
    for view in ("final", "boxes", "plain", "queries"):
        with tempfile.TemporaryDirectory() as folder:
            cpu, wall = time.process_time(), time.perf_counter()
            paths = ds.timelapse(run, folder, view=view)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        count = sum(path.suffix == ".mp4" for path in paths)
        print(
            f"{view}: {count} film(s) of {SNAPSHOTS} snapshots: {cpu:.1f} s of CPU, {wall:.1f} s wall clock"
        )


def tracks(run: str) -> None:
    """Count moves by more than a fifth of the image between two snapshots, of the four best queries."""
    recording = load_recording(run)
    jumps: dict[str, list[bool]] = {"by index": [], "tracked": []}
    for name in recording.images:
        traces, ids = recording.traces(name), [s.query_ids for s in recording.snapshots(name)]
        tracked = track_queries(traces)  # [T, n]
        for track in traces[-1].scores().amax(1).argsort(descending=True)[:4].tolist():
            same_index = [(i == ids[-1][track]).nonzero().flatten()[:1] for i in ids]  # none where not stored
            for kind, queries in (("by index", same_index), ("tracked", tracked[:, track, None])):
                centres = [t.boxes_cxcywh[-1, query, :2] for t, query in zip(traces, queries, strict=True)]
                jumps[kind] += [bool((b - a).norm() > 0.2) for a, b in pairwise(centres) if len(a) and len(b)]
    for kind, moves in jumps.items():
        print(f"{kind}: {sum(moves)} of {len(moves)} moves, {100 * sum(moves) / len(moves):.0f}%")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["snapshots", "film", "tracks"])
    parser.add_argument("run", nargs="?", default="")
    given = parser.parse_args()
    if given.part == "snapshots":
        snapshots()
    else:
        {"film": film, "tracks": tracks}[given.part](given.run)
