"""`detrscope evaluate`: measure the COCO AP of a model or of a file of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.options import (
    Data,
    Device,
    EditFile,
    EditTexts,
    Engine,
    Log,
    OptionalModel,
    OptionalOutFolder,
    Precision,
    Quiet,
    Split,
    Tile,
    TileBatch,
    TileOverlap,
    TileWhole,
    Weights,
    tiling_of,
)
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_file, check_writable_folder

if TYPE_CHECKING:
    from detrscope.inference.load_detector import LoadOptions


def evaluate(
    data: Data,
    model: OptionalModel = None,
    weights: Weights = None,
    results_in: Annotated[
        Path | None, typer.Option(help="File of results in COCO's format to evaluate instead of a model.")
    ] = None,
    split: Split = "val",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read images; 0 reads them in this one.")
    ] = 0,
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Processes that share the images, one per device; torchrun and srun tell it."
        ),
    ] = 1,
    tile: Tile = None,
    tile_overlap: TileOverlap = None,
    tile_whole: TileWhole = None,
    tile_batch: TileBatch = None,
    edit: EditTexts = None,
    edits: EditFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    json: Annotated[Path | None, typer.Option(help="File to write the metrics to.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="File to write the detections to, in COCO's format.")
    ] = None,
    out: OptionalOutFolder = None,
    per_class_thresholds: Annotated[
        bool, typer.Option("--per-class-thresholds", help="Print the thresholds of each class too.")
    ] = False,
    store_thresholds: Annotated[
        bool,
        typer.Option(
            "--store-thresholds",
            help="Write the thresholds into the checkpoint, for `detect --threshold precision=0.9`.",
        ),
    ] = False,
    why: Annotated[
        bool,
        typer.Option(
            "--why",
            help="Say why AP is what it is: each error with the stage where it arose, what each stage costs, what to"
            " change; with --out also why.html, the worst images.",
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="With --why: minimum score of a detection; 0.5 by default.", min=0, max=1, show_default=False
        ),
    ] = None,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Measure AP, AP50, AP75, small, medium, large, AR, and all of them per class; find score thresholds.

    With --out, metrics, tables, precision-recall curves and detections are written.
    """
    console.setup_console(quiet, log_level)
    if (model is None) == (results_in is None):
        raise UserError("give either --model or --results-in")
    given = {
        "--tile": tile is not None,
        "--results-in": results_in is not None,
        "--results": results is not None,
        "--json": json is not None,
        "--store-thresholds": store_thresholds,
        "--per-class-thresholds": per_class_thresholds,
        "--batch-size": batch_size != 1,
        "--devices": devices != 1,
    }
    for option in (name for name, is_given in given.items() if why and is_given):
        raise UserError(f"--why takes whole images one by one and writes to --out only; leave {option} out")
    if threshold is not None and not why:
        raise UserError("--threshold is for --why: AP counts all scores; leave it out, or add --why")
    if results_in is not None and store_thresholds:
        raise UserError(
            "--store-thresholds writes to the checkpoint of a model; it does not go with --results-in"
        )
    if results_in is not None and results is not None:
        raise UserError("--results writes the detections of a model; it does not go with --results-in")
    tiling = tiling_of(tile, tile_overlap, tile_whole, tile_batch)
    if results_in is not None and tiling is not None:
        raise UserError("--tile divides images for a model; it does not go with --results-in")
    if results_in is not None and devices != 1:
        raise UserError("--devices shares the images of a model; it does not go with --results-in")
    for path in (json, results):
        if path is not None:
            check_writable_file(path)
    if out is not None:
        check_writable_folder(out)

    from detrscope.commands import evaluate as command
    from detrscope.commands.edits import read_edits
    from detrscope.commands.processes import evaluation_processes, refuse_several_processes
    from detrscope.core.distributed import rank_and_world
    from detrscope.evaluation.report import (
        class_table,
        class_threshold_table,
        panoptic_table,
        summary_table,
        threshold_table,
    )
    from detrscope.inference.load_detector import LoadOptions

    options = LoadOptions(weights, device, precision, engine, read_edits(edit or (), edits))
    if why:
        refuse_several_processes("evaluate --why")
        _explain(str(model), data, split, 0.5 if threshold is None else threshold, out, workers, options)
        return
    if results_in is not None:
        refuse_several_processes("evaluate --results-in")
        evaluation = command.evaluate_results(results_in, data, split=split, json_file=json, out=out)
    else:
        with evaluation_processes(devices, options) as own_options:
            evaluation = command.evaluate(
                str(model),
                data,
                split=split,
                batch_size=batch_size,
                workers=workers,
                load_options=own_options,
                json_file=json,
                results_file=results,
                out=out,
                store_thresholds=store_thresholds,
                tiling=tiling,
            )
        if rank_and_world()[0] > 0:
            return  # the first process prints
    console.print_table(summary_table(evaluation))
    if evaluation.masks is not None:
        console.print_table(summary_table(evaluation.masks, "masks"))
    if evaluation.panoptic is not None:
        console.print_table(panoptic_table(evaluation.panoptic))
    console.print_table(class_table(evaluation))
    console.print_table(threshold_table(evaluation))
    if per_class_thresholds:
        console.print_table(class_threshold_table(evaluation))


def _explain(
    model: str, data: str, split: str, threshold: float, out: Path | None, workers: int, options: LoadOptions
) -> None:
    """Print what costs AP and what to change."""
    from rich.table import Table

    from detrscope.commands.why import why, why_summary
    from detrscope.views.why_page import percent_gained

    result = why(
        model, data, split=split, threshold=threshold, out=out, workers=workers, load_options=options
    )
    for line in why_summary(result):
        console.print_line(line)
    table = Table(title="where errors arise, and the AP that mending them gives back")
    for name in ("stage", "missed", "false", "AP", "AP50"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for cost in result.costs:
        table.add_row(
            cost.stage, str(cost.missed), str(cost.false), percent_gained(cost.ap), percent_gained(cost.ap50)
        )
    console.print_table(table)
    for number, line in enumerate(result.advice, start=1):
        console.print_line(f"{number}. {line}")
    if out is not None:
        console.print_line(out / "why.html")
