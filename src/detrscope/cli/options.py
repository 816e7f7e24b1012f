"""Options that several commands share, so that they have one name and one help text everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detrscope.console import LogLevel
from detrscope.core.errors import UserError

if TYPE_CHECKING:
    from detrscope.core.tiling import Tiling

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings, errors and metrics.")]
Log = Annotated[LogLevel, typer.Option("--log-level", help="Least severe log messages to show.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

_MODEL = typer.Option(
    "--model", "-m", help="Variant, checkpoint, run folder, Hugging Face id, or exported model."
)
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]  # where another source may replace a model
Weights = Annotated[
    str | None,
    typer.Option(help="For a variant: a weights file instead of the published one, or 'random'."),
]
Device = Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16", "int8"],
    typer.Option(help="Precision of weights and activations."),
]

Engine = Annotated[
    Literal["auto", "torch", "torch-compile", "onnx", "openvino"],
    typer.Option(
        help="Engine that runs the model; auto is torch for a checkpoint, else openvino, else onnx."
    ),
]

Tile = Annotated[
    list[str] | None,
    typer.Option(
        help="Divide large images into tiles of this size in pixels, such as 800, 800x600 (width x height) or auto, "
        "the size that the model was trained for; repeated, tiles of several sizes.",
        show_default="none",
    ),
]
TileOverlap = Annotated[
    float | None,
    typer.Option(help="Least share of a --tile that overlaps with the next.", show_default="0.2"),
]
TileWhole = Annotated[
    bool | None,
    typer.Option(
        "--tile-whole/--no-tile-whole",
        help="With --tile: detect in the image as a whole, too, for objects larger than a tile.",
        show_default="yes",
    ),
]
TileBatch = Annotated[
    int | None, typer.Option(help="Tiles that the model runs on at once.", show_default="1")
]

EditTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--edit",
        help="Intervention, such as 'decoder.*.cross: heads 2,3 x0' or 'encoder.*.self: hide region 120,80,300,260'; "
        "may be repeated.",
        metavar="EDIT",
    ),
]
EditFile = Annotated[Path | None, typer.Option("--edits", help="JSON file of edits, as `see` saves them.")]
HideRegions = Annotated[
    list[str] | None,
    typer.Option(
        "--hide",
        help="Region of the image, in pixels, that no attention sees; may be repeated.",
        metavar="X0,Y0,X1,Y1",
    ),
]
Swaps = Annotated[
    list[str] | None,
    typer.Option(
        "--swap",
        help="Attention of a site taken from a trace: 'SITE [PART] from x.trace', PART one of query, key, value, "
        "points, weights; may be repeated.",
        metavar="SWAP",
    ),
]

_DATA = typer.Option(
    help="Dataset: coco:DIR, yolo:DIR, voc:DIR or another format (docs/data.md), drawn-dogs:, a folder, or an"
    " annotation file."
)
Data = Annotated[str, _DATA]
OptionalData = Annotated[str | None, _DATA]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]

_OUT = typer.Option(help="Output folder.")
OutFolder = Annotated[Path, _OUT]
OptionalOutFolder = Annotated[Path | None, _OUT]
ImageFormat = Annotated[
    Literal["png", "jpg", "webp", "svg", "pdf"], typer.Option("--format", help="File format of the images.")
]


def tiling_of(
    tile: list[str] | None, overlap: float | None, whole: bool | None, batch: int | None = None
) -> Tiling | None:
    """Return the tiling that the options describe; None without any.

    Raises:
        UserError: a size that is none, or options of tiles without tiles.
    """
    from detrscope.core.tiling import Tiling, parse_tile_size

    given = {"overlap": overlap, "whole": whole, "batch_size": batch}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not tile:
        if chosen:
            raise UserError("options of tiles have no effect without --tile; give it, such as --tile auto")
        return None
    if "auto" in tile:
        if len(tile) > 1:
            raise UserError("--tile auto: is one size; give it alone, or all sizes in pixels")
        return Tiling(**chosen)
    return Tiling(tuple(map(parse_tile_size, tile)), **chosen)
