"""Run the configurations of a benchmark: try each once, time them in turns, measure their memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from detrscope.commands.benchmark_rows import STAGES, BenchmarkRow
from detrscope.console import progress
from detrscope.core.errors import UserError, WorkFailed, in_one_line
from detrscope.core.model_card import ModelCard
from detrscope.data.image_reader import read_image
from detrscope.inference.benchmark_sides import BenchmarkSide, OpenSide, made_up_images
from detrscope.inference.latency import time_in_turns
from detrscope.inference.peak_memory import measure_peak_memory

T = TypeVar("T")
# What an engine raises for a model, precision or size that it cannot run; it becomes the row's problem.
CANNOT_RUN = (UserError, WorkFailed, RuntimeError, ValueError, ImportError, MemoryError, OSError)


@dataclass(frozen=True)
class BenchmarkCell:
    """A side on an input; `opened` is None where it cannot run."""

    row: BenchmarkRow
    side: BenchmarkSide
    card: ModelCard
    opened: OpenSide | None


def try_to_run(run: Callable[[], T]) -> tuple[T | None, str]:
    """Return the result, or None and what went wrong in one line."""
    try:
        return run(), ""
    except CANNOT_RUN as error:
        described = in_one_line(error)
        lines = str(error).strip().splitlines()
        return None, described[0] if described else (lines[0][:200] if lines else type(error).__name__)


def tried_once(cell: BenchmarkCell) -> BenchmarkCell:
    """Run a cell once: its first run is slower, and tells whether it can run."""
    opened, row = cell.opened, cell.row
    if opened is None:
        return cell
    row = replace(row, engine=opened.engine, precision=opened.precision)
    _, problem = try_to_run(lambda: opened.predict(made_up_images(row.height, row.width, row.batch)))
    return replace(cell, row=replace(row, problem=problem), opened=None if problem else opened)


def time_made_up_images(cells: Sequence[BenchmarkCell], rounds: int) -> list[BenchmarkRow]:
    """Time the predictions of made-up images."""
    runs: dict[str, Callable[[], object]] = {}
    for number, cell in enumerate(cells):
        batch, opened = made_up_images(cell.row.height, cell.row.width, cell.row.batch), cell.opened
        assert opened is not None
        runs[str(number)] = partial(opened.predict, batch)
    with progress() as bar:
        task = bar.add_task("timing", total=rounds)
        seconds = time_in_turns(runs, rounds=rounds, after_round=lambda: bar.advance(task))
    return [replace(cell.row, seconds=tuple(seconds[str(i)])) for i, cell in enumerate(cells)]


def time_files(cells: Sequence[BenchmarkCell], files: Sequence[Path], rounds: int) -> list[BenchmarkRow]:
    """Time each file from reading it to its detections, in stages, the sides in turns on each file."""
    stages: list[dict[str, list[float]]] = [{stage: [] for stage in STAGES} for _ in cells]
    with progress() as bar:
        task = bar.add_task("timing", total=rounds * len(files))
        for number, file in itertools.product(range(rounds + 1), files):  # round 0 warms up
            for cell, times in zip(cells, stages, strict=True):
                assert cell.opened is not None
                found = _stages(cell.opened, file)
                for stage in STAGES if number else ():
                    times[stage].append(found[stage])
            bar.advance(task, number > 0)
    rows = []
    for cell, times in zip(cells, stages, strict=True):
        totals = tuple(sum(parts) for parts in zip(*times.values(), strict=True))
        rows.append(replace(cell.row, seconds=totals, stages={k: tuple(v) for k, v in times.items()}))
    return rows


def _stages(opened: OpenSide, file: Path) -> Mapping[str, float]:
    """Return the seconds of each stage of one file."""
    marks = [perf_counter()]
    image = read_image(file)
    marks.append(perf_counter())
    batch = opened.preprocess(image)
    marks.append(perf_counter())
    found = opened.predict(batch)
    marks.append(perf_counter())
    opened.postprocess(found, image.shape[-2], image.shape[-1])
    marks.append(perf_counter())
    return {stage: end - start for stage, (start, end) in zip(STAGES, itertools.pairwise(marks), strict=True)}


def with_peak_memory(cells: Sequence[BenchmarkCell], rows: Sequence[BenchmarkRow]) -> list[BenchmarkRow]:
    """Return the rows with the peak memory of their sides, or with the reason why it is not known."""
    measured = []
    with progress() as bar:
        task = bar.add_task("measuring memory", total=len(cells))
        for cell, row in zip(cells, rows, strict=True):
            shape = (row.height, row.width, row.batch)
            memory, problem = try_to_run(partial(measure_peak_memory, cell.side, cell.card, *shape))
            measured.append(replace(row, memory=memory, problem=problem))
            bar.advance(task)
    return measured
