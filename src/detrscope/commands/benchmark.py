"""Measure latency, throughput and memory of a model by engine, precision, size, batch and number of queries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from detrscope.checkpoints.load import load_random_model
from detrscope.checkpoints.native import save_checkpoint
from detrscope.commands.benchmark_figure import draw_result
from detrscope.commands.benchmark_rows import Benchmark, BenchmarkRow, with_ratios, write_benchmark
from detrscope.commands.benchmark_timing import (
    BenchmarkCell,
    time_files,
    time_made_up_images,
    tried_once,
    try_to_run,
    with_peak_memory,
)
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.model_card import ModelCard
from detrscope.data.image_reader import read_image
from detrscope.families import FAMILIES, VARIANTS
from detrscope.inference.benchmark_sides import BenchmarkSide
from detrscope.inference.latency import describe_machine
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, load
from detrscope.inference.media.sources import expand_media_sources
from detrscope.inference.reference_models import ATTENTIONS, REFERENCES, check_reference_installed

AGAINST = ("transformers", "fasterrcnn")
PHOTO = (480, 640)  # height and width of the image whose size for the model is the default


@dataclass(frozen=True)
class BenchmarkGrid:
    """Configurations: every combination of these.

    Attributes:
        engines: engines, as `load` takes them.
        precisions: precisions, as `load` takes them.
        sizes: height and width of the model's input in pixels; empty: that of a photograph of 480 x 640.
        batches: images in a batch.
        queries: numbers of queries, with random weights; empty: the model as it is.
        against: reference models, "transformers" or "fasterrcnn", in fp32.
    """

    engines: Sequence[str] = ("auto",)
    precisions: Sequence[str] = ("auto",)
    sizes: Sequence[tuple[int, int]] = ()
    batches: Sequence[int] = (1,)
    queries: Sequence[int] = ()
    against: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("engines", "precisions", "batches"):
            if not getattr(self, name):
                raise UserError(f"{name}: expected at least one")
        for name in ("batches", "queries"):
            if wrong := [value for value in getattr(self, name) if value < 1]:
                raise UserError(f"{name}: expected 1 or more, found {wrong[0]}")
        if wrong := [size for size in self.sizes if min(size) < 32]:
            raise UserError(f"sizes: expected 32 pixels or more, found {wrong[0][0]}x{wrong[0][1]}")
        if unknown := [name for name in self.against if name not in AGAINST]:
            raise UserError(f"against '{unknown[0]}': expected {' or '.join(AGAINST)}")

    def references(self) -> list[str]:
        """Return the reference models by the names of `REFERENCES`."""
        wanted = [f"transformers-{a}" for a in ATTENTIONS] if "transformers" in self.against else []
        return [name for name in REFERENCES if name in wanted or name in self.against]


def benchmark(
    model: str | Path,
    grid: BenchmarkGrid | None = None,
    *,
    rounds: int = 10,
    threads: int | None = None,
    images: str | Path | None = None,
    memory: bool = True,
    out: str | Path | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Benchmark:
    """Time every configuration once a round, turn by turn, and measure its peak memory in a process of its own.

    A configuration that cannot run here is a row that says why.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or exported model.
        grid: engines, precisions, sizes, batches, numbers of queries, and reference models.
        rounds: how many times each configuration is timed, after two runs that are not.
        threads: threads of the CPU; None for torch's own number.
        images: file, folder or glob: time each image from the file to detections, in four stages, in place of
            made-up images.
        memory: measure memory.
        out: folder for `benchmark.json`, `benchmark.csv` and `benchmark.png`; None writes nothing.
        load_options: weights and device; engine and precision are those of the grid.

    Raises:
        UserError: a wrong argument, or a reference model whose library is not installed.
        WorkFailed: no configuration could run.
    """
    grid = grid or BenchmarkGrid()
    if rounds < 1:
        raise UserError(f"rounds {rounds}: expected 1 or more")
    if threads is not None and threads < 1:
        raise UserError(f"threads {threads}: expected 1 or more")
    if load_options.edits:
        raise UserError("edits: have no effect on speed; leave them out")
    if (load_options.engine, load_options.precision) != ("auto", "auto"):
        raise UserError("load_options: give engine and precision in the grid")
    if images is not None and (grid.sizes or tuple(grid.batches) != (1,)):
        raise UserError(
            "images: are predicted one by one in the model's own size; leave out sizes and batches"
        )
    files = [] if images is None else _image_files(images)
    for name in grid.references():
        check_reference_installed(name)
    card = load(model, weights=load_options.weights, device=load_options.device).card
    with _threads(threads), TemporaryDirectory() as folder:
        cells = _open_cells(str(model), card, grid, files, load_options, Path(folder))
        working = [cell for cell in cells if cell.opened is not None]
        if not working:
            raise WorkFailed(f"no configuration can run: {cells[0].row.problem}")
        timed = time_files(working, files, rounds) if files else time_made_up_images(working, rounds)
        measured = iter(with_peak_memory(working, timed) if memory else timed)
        rows = [cell.row if cell.opened is None else next(measured) for cell in cells]
        result = Benchmark(str(model), describe_machine(), rounds, tuple(with_ratios(rows)), len(files))
    if out is not None:
        write_benchmark(result, out)
        draw_result(result, Path(out) / "benchmark.png")
    return result


def _image_files(images: str | Path) -> list[Path]:
    """Return the images behind a name.

    Raises:
        UserError: none, or one that cannot be read.
    """
    files = [Path(str(s.content)) for s in expand_media_sources([images]) if not s.is_video]
    if not files:
        raise UserError(f"{images}: no images; expected a file, folder or glob of images")
    for file in files:
        read_image(file)
    return files


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def _open_cells(
    model: str,
    card: ModelCard,
    grid: BenchmarkGrid,
    files: Sequence[Path],
    options: LoadOptions,
    folder: Path,
) -> list[BenchmarkCell]:
    """Load every side, and run it once on each of its inputs."""
    cells = []
    weights = None if options.weights is None else str(options.weights)
    for queries in grid.queries or (None,):
        name, own_card, own_weights = model, card, weights
        if queries is not None:
            name, own_card = model_with_queries(card, queries, folder)
            own_weights = None
        pairs = [(name, "fp32") for name in grid.references()]
        pairs += itertools.product(grid.engines, grid.precisions)
        sides = [BenchmarkSide(*pair, queries, name, own_weights, options.device) for pair in pairs]
        sizes = grid.sizes or [_default_size(own_card, files)]
        for side in sides:
            opened, problem = try_to_run(partial(side.open, own_card))
            for (height, width), batch in itertools.product(sizes, grid.batches):
                row = BenchmarkRow(
                    side.engine, side.precision, height, width, batch, queries, problem=problem
                )
                cells.append(tried_once(BenchmarkCell(row, side, own_card, opened)))
    return sorted(cells, key=lambda cell: _order(cell, grid))


def _order(cell: BenchmarkCell, grid: BenchmarkGrid) -> tuple[int, ...]:
    """Sort by input, and within an input as the grid lists the sides (sorting is stable)."""
    row = cell.row
    size = (row.height, row.width)
    return (
        grid.queries.index(row.queries) if row.queries is not None else 0,
        grid.sizes.index(size) if grid.sizes else 0,
        grid.batches.index(row.batch),
    )


def _default_size(card: ModelCard, files: Sequence[Path]) -> tuple[int, int]:
    """Return the model's size of the first file, or of a photograph."""
    height, width = read_image(files[0]).shape[-2:] if files else PHOTO
    return card.preprocessing.size_for(height, width)


def model_with_queries(card: ModelCard, queries: int, folder: Path) -> tuple[str, ModelCard]:
    """Write the model with another number of queries and random weights; return the file and its card.

    Raises:
        UserError: more than the family takes.
    """
    family = FAMILIES.get(card.family)
    if family is None or card.variant not in VARIANTS:
        raise UserError(f"queries: the number of queries of a '{card.variant}' is fixed; leave it out")
    overrides = {**card.config, family.query_count: queries}
    loaded = load_random_model(card.variant, overrides, card.classes, card.preprocessing)
    path = folder / f"queries-{queries}.safetensors"
    save_checkpoint(path, loaded.model, loaded.card)
    return str(path), loaded.card
