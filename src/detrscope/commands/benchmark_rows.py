"""Results of a benchmark: rows, their numbers, and the tables and files made of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from detrscope.core.files import atomic_write
from detrscope.inference.latency import Ratio, percentile_95
from detrscope.inference.peak_memory import PeakMemory

if TYPE_CHECKING:
    from rich.table import Table

STAGES = ("decode", "resize", "predict", "postprocess")
CSV_COLUMNS = (
    *("engine", "precision", "height", "width", "batch", "queries", "median_s", "p95_s", "images_per_second"),
    *(
        "peak_mib",
        "start_mib",
        "ratio",
        "ratio_min",
        "ratio_max",
        *(f"{stage}_s" for stage in STAGES),
        "problem",
    ),
)


@dataclass(frozen=True)
class BenchmarkRow:
    """One configuration: what ran, on what input, in what time and memory; or why it did not run."""

    engine: str
    precision: str
    height: int  # of the model's input, in pixels
    width: int
    batch: int
    queries: int | None  # None: the model's own
    seconds: tuple[float, ...] = ()  # of each batch that was timed
    stages: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # seconds of each image, by stage
    ratio: Ratio | None = None  # to the first row of the same input
    memory: PeakMemory | None = None  # MiB
    problem: str = ""  # why it did not run, or why its memory is not known

    @property
    def name(self) -> str:
        """Engine and precision."""
        return f"{self.engine} {self.precision}"

    @property
    def input(self) -> tuple[int, int, int, int | None]:
        """What rows of one ratio share."""
        return self.height, self.width, self.batch, self.queries

    @property
    def images_per_second(self) -> float:
        """Images in the median time."""
        return self.batch / median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; the numbers are null where the row did not run."""
        ran = bool(self.seconds)
        ratio = self.ratio
        return {
            **{
                key: getattr(self, key)
                for key in ("engine", "precision", "height", "width", "batch", "queries")
            },
            "median_s": median(self.seconds) if ran else None,
            "p95_s": percentile_95(self.seconds) if ran else None,
            "images_per_second": self.images_per_second if ran else None,
            "peak_mib": self.memory and self.memory.peak,
            "start_mib": self.memory and self.memory.start,
            "ratio": ratio and ratio.median,
            "ratio_min": ratio and ratio.min,
            "ratio_max": ratio and ratio.max,
            **{f"{stage}_s": median(self.stages[stage]) if self.stages else None for stage in STAGES},
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Benchmark:
    """Rows that were timed turn by turn in one process.

    Attributes:
        model: name or path.
        machine: what computed: instruction sets, threads, versions.
        rounds: how many times each row was timed.
        rows: the configurations; of each input the first that ran is the reference of the ratios.
        images: image files that were read; 0 where made-up images were used.
    """

    model: str
    machine: str
    rounds: int
    rows: tuple[BenchmarkRow, ...]
    images: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        rows = [{**row.to_json(), "seconds": list(row.seconds)} for row in self.rows]
        head = {"model": self.model, "machine": self.machine, "rounds": self.rounds, "images": self.images}
        return {**head, "rows": rows}


def benchmark_table(result: Benchmark) -> Table:
    """Return a row for each configuration; times of a batch in milliseconds."""
    from rich.table import Table

    table = Table(title=f"{result.model}, {result.rounds} rounds", title_justify="left")
    headings = ("side", "size", "batch", "queries", "median ms", "p95 ms", "images/s", "peak MiB (model)")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "side" else "right")
    table.add_column("ratio (min-max)")
    for row in result.rows:
        where = (
            f"{row.height}x{row.width}",
            str(row.batch),
            "own" if row.queries is None else str(row.queries),
        )
        memory = "-"
        if row.memory is not None:
            memory = f"{row.memory.peak:.0f} ({row.memory.peak - row.memory.start:.0f})"
        numbers = ("-", "-", "-")
        if row.seconds:
            times = (1000 * median(row.seconds), 1000 * percentile_95(row.seconds), row.images_per_second)
            numbers = (f"{times[0]:.1f}", f"{times[1]:.1f}", f"{times[2]:.3g}")
        table.add_row(row.name, *where, *numbers, memory, "-" if row.ratio is None else str(row.ratio))
    return table


def stage_table(result: Benchmark) -> Table:
    """Return the median milliseconds of each stage of an image, and its share."""
    from rich.table import Table

    table = Table(title=f"from {result.images} files, median ms an image and share", title_justify="left")
    for heading in ("side", *STAGES):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for row in result.rows:
        if row.stages:
            medians = [median(row.stages[stage]) for stage in STAGES]
            table.add_row(row.name, *(f"{1000 * m:.2f} ({m / sum(medians):.0%})" for m in medians))
    return table


def write_benchmark(result: Benchmark, out: str | Path) -> None:
    """Write `benchmark.json` and `benchmark.csv`."""
    with atomic_write(Path(out) / "benchmark.json") as temporary:
        temporary.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    with (
        atomic_write(Path(out) / "benchmark.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(row.to_json() for row in result.rows)


def with_ratios(rows: Sequence[BenchmarkRow]) -> list[BenchmarkRow]:
    """Return the rows with their ratios to the first one of the same input that ran."""
    first: dict[object, BenchmarkRow] = {}
    rated = []
    for row in rows:
        if row.seconds:
            reference = first.setdefault(row.input, row)
            row = replace(row, ratio=Ratio.of(row.seconds, reference.seconds))
        rated.append(row)
    return rated
