"""`detrscope export`: write a model as an ONNX or OpenVINO file that agrees with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detrscope import console
from detrscope.cli.options import Json, Log, Model, OptionalData, Quiet, Split, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from detrscope.commands.export import ExportResult
    from detrscope.inference.export.check import Difference, Tolerance


def export(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, ending in .onnx or .xml.", show_default="the variant's name in this folder"
        ),
    ] = None,
    format: Annotated[
        Literal["onnx", "openvino"] | None,
        typer.Option("--format", help="Format of the file.", show_default="that of --out, else onnx"),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="Precision of the weights; fp16 and int8 are for OpenVINO, int8 needs --data."),
    ] = "fp32",
    with_attention: Annotated[
        bool,
        typer.Option(
            "--with-attention", help="Make attention records outputs and edits inputs of the model."
        ),
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Image to compare with PyTorch on; may be repeated.",
            show_default="those of --data, or drawn ones",
        ),
    ] = None,
    data: OptionalData = None,
    split: Split = "val",
    calibration_split: Annotated[
        str, typer.Option(help="Split of the dataset that calibrates int8.")
    ] = "train",
    calibration: Annotated[int, typer.Option(min=1, help="Number of images that calibrate int8.")] = 100,
    evaluated: Annotated[
        int, typer.Option(min=0, help="Number of images to measure the AP of int8 on; 0 is all of the split.")
    ] = 0,
    max_ap_loss: Annotated[float, typer.Option(min=0, max=1, help="AP that int8 may lose.")] = 0.015,
    weights: Weights = None,
    json: Json = False,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Write a model as ONNX or OpenVINO file, with its classes and preprocessing inside.

    Its detections are compared with PyTorch's; a file that differs beyond the tolerance of its precision is not
    written, and the exit code is 1. The file goes wherever a model name goes: detect, evaluate, see.
    """
    console.setup_console(quiet, log_level)

    from detrscope.commands import export as command
    from detrscope.commands.export_int8 import Int8Options

    try:
        result = command.export(
            model,
            out,
            options=command.ExportOptions(
                format,
                precision,
                with_attention,
                Int8Options(calibration, calibration_split, evaluated, max_ap_loss),
            ),
            images=images or (),
            data=data,
            split=split,
            weights=weights,
        )
    except command.ExportDisagrees as error:
        console.print_table(_difference_table(error.differences, error.tolerance))
        raise
    if json:
        console.print_json(result.to_json())
        return
    if not quiet:
        console.print_table(_difference_table(result.differences, result.tolerance))
    if result.attempts:
        console.print_table(_attempt_table(result))
    if result.drift:
        console.print_table(_drift_table(result))
    console.log.info(f"written to {result.path}")


def _difference_table(differences: Sequence[Difference], tolerance: Tolerance | None) -> Table:
    """Return a table of the largest differences in each image."""
    from rich.table import Table

    accepted = (
        "" if tolerance is None else f"; accepted: score {tolerance.score:g}, box {tolerance.box:g} pixels"
    )
    table = Table(
        *("image", "input", "batch", "detections", "score differs by", "box, pixels", "masks", "other class"),
        title=f"largest differences from PyTorch{accepted}",
    )
    for d in differences:
        size = f"{d.width}x{d.height}"
        numbers = (f"{d.score:.1e}", f"{d.box:.3f}", f"{d.mask:.1e}", str(d.other_classes))
        table.add_row(d.image, size, str(d.batch), str(d.detections), *numbers)
    return table


def _attempt_table(result: ExportResult) -> Table:
    """Return a table of the int8 models that were tried."""
    from rich.table import Table

    table = Table(
        "in floating point", "AP", "change", "int8 operators", title="int8, the last one is written"
    )
    assert result.ap is not None
    table.add_row("everything (PyTorch)", f"{result.ap:.3f}", "", "")
    for attempt in result.attempts:
        parts = ", ".join(f"{part} {count}" for part, count in sorted(attempt.parts.items()))
        table.add_row(attempt.kept.name, f"{attempt.ap:.3f}", f"{attempt.ap - result.ap:+.3f}", parts)
    return table


def _drift_table(result: ExportResult) -> Table:
    """Return a table of the drift of attention, layer by layer."""
    from rich.table import Table

    table = Table(
        *("site", "rank correlation", "in the box: PyTorch", "int8", "detections"), title="drift of attention"
    )
    for row in result.drift:
        numbers = (f"{row.rank_correlation:.3f}", f"{row.in_box:.3f}", f"{row.in_box_other:.3f}")
        table.add_row(row.site, *numbers, str(row.detections))
    return table
