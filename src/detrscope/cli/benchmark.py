"""`detrscope benchmark`: measure latency, throughput and memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from detrscope import console
from detrscope.cli.options import Device, Json, Log, Model, OptionalOutFolder, Quiet, Weights
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_folder

FOLDER = Path("benchmark")


def benchmark(
    model: Model = "sprint-dense-n",
    weights: Weights = None,
    engine: Annotated[
        str, typer.Option(help="Engines, such as 'torch,onnx,openvino'; auto is that of the file.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="Precisions, such as 'fp32,bf16,int8'.")] = "auto",
    size: Annotated[
        str,
        typer.Option(
            help="Heights and widths of the model's input, such as '800x1066,480x640'.",
            show_default="that of a photograph",
        ),
    ] = "",
    batch: Annotated[str, typer.Option(help="Images in a batch, such as '1,4'.")] = "1",
    queries: Annotated[
        str,
        typer.Option(
            help="Numbers of queries, such as '100,300', with random weights.", show_default="the model's own"
        ),
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            help="Models to compare with: transformers (the same architecture, eager and sdpa) and fasterrcnn "
            "(torchvision's, R50-FPN), in fp32 with random weights.",
            show_default="none",
        ),
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Times that each configuration is timed.")] = 10,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the CPU.", show_default="as many as torch takes")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="File, folder or glob of images to time from the file to detections, stage by stage."
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="Measure peak memory, each configuration in a process.")
    ] = True,
    out: OptionalOutFolder = None,
    json: Json = False,
    device: Device = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Measure latency (median, p95), throughput and peak memory, turn by turn in one process.

    Comma lists give every combination; one that cannot run here is named with the reason. benchmark.json,
    benchmark.csv and benchmark.png go to the folder --out ("benchmark" by default). With --json nothing is written
    unless --out is given.
    """
    console.setup_console(quiet, log_level)
    if out is None and not json:
        out = FOLDER
    if out is not None:
        check_writable_folder(out)
    sizes, batches, query_counts = _sizes(size), _numbers("--batch", batch), _numbers("--queries", queries)

    from detrscope.commands.benchmark import BenchmarkGrid
    from detrscope.commands.benchmark import benchmark as run
    from detrscope.commands.benchmark_rows import benchmark_table, stage_table
    from detrscope.inference.load_detector import LoadOptions

    result = run(
        model,
        BenchmarkGrid(_words(engine), _words(precision), sizes, batches, query_counts, _words(against)),
        rounds=rounds,
        threads=threads,
        images=images,
        memory=memory,
        out=out,
        load_options=LoadOptions(weights, device),
    )
    if json:
        console.print_json(result.to_json())
        return
    console.print_line(result.machine)
    console.print_table(benchmark_table(result))
    if result.images:
        console.print_table(stage_table(result))
    for row in result.rows:
        if row.problem:
            console.print_line(f"{row.name}, {row.height}x{row.width}, batch {row.batch}: {row.problem}")
    if out is not None:
        console.log.info(f"written to {out}")


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _numbers(option: str, text: str) -> list[int]:
    for word in _words(text):
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise UserError(f"{option} '{word}': expected whole numbers, such as '1,4'")
    return [int(word) for word in _words(text)]


def _sizes(text: str) -> list[tuple[int, int]]:
    sizes = []
    for word in _words(text):
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", word)
        if match is None:
            raise UserError(f"--size '{word}': expected height x width in pixels, such as '800x1066'")
        sizes.append((int(match[1]), int(match[2])))
    return sizes
