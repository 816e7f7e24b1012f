"""`detrscope see`: figures of the attention of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detrscope import console
from detrscope.cli.examples import example_text
from detrscope.cli.options import (
    Device,
    EditFile,
    EditTexts,
    Engine,
    HideRegions,
    ImageFormat,
    Log,
    OptionalModel,
    Precision,
    Quiet,
    Swaps,
    Tile,
    TileOverlap,
    TileWhole,
    Weights,
    tiling_of,
)
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_folder
from detrscope.views import VIEWS

if TYPE_CHECKING:
    from detrscope.commands.see import SeeResult

FOLDER = Path("seen")
# Click rewraps paragraphs and breaks at the hyphens of names; lines after "\b" it keeps.
LIST = "Views:\n\n\b\n" + "\n".join(f"{name} ({view.shows})" for name, view in VIEWS.items())
EPILOG = f"{LIST}\n\n{example_text('see')}"


def see(
    sources: Annotated[
        list[str],
        typer.Argument(help="Images, folders, globs, URLs, or traces (x.trace).", metavar="SOURCE"),
    ],
    model: OptionalModel = None,
    weights: Weights = None,
    out: Annotated[
        Path, typer.Option(help="Output folder; each image has its own in it, with all its figures.")
    ] = FOLDER,
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a view to draw, from the list below; may be repeated.",
            show_default="all that apply",
            autocompletion=lambda: list(VIEWS),
        ),
    ] = None,
    query: Annotated[
        list[int] | None,
        typer.Option(
            help="Index of a query to show; may be repeated.", show_default="those of the detections"
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            help="Point of the image, in pixels, whose attention is shown; may be repeated.", metavar="X,Y"
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="Layer index, from 0; -1 is the last.", show_default="the last, or all side by side"
        ),
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="Head index, from 0.", show_default="merged, or side by side")
    ] = None,
    level: Annotated[
        int | None, typer.Option(help="Feature level, from 0, the finest.", show_default="all")
    ] = None,
    from_level: Annotated[int, typer.Option(help="Feature level of the token at --point.")] = 0,
    merge: Annotated[Literal["mean", "max"], typer.Option(help="How heads are merged.")] = "mean",
    cells: Annotated[
        bool, typer.Option("--cells", help="Show each token as an even cell instead of interpolating.")
    ] = False,
    threshold: Annotated[float, typer.Option(help="Minimum score of a detection, 0 to 1.")] = 0.5,
    against: Annotated[
        str | None,
        typer.Option(help="Compare with a trace of the same image (x.trace), or with another model."),
    ] = None,
    ground_truth: Annotated[
        str | None,
        typer.Option(
            help="Dataset that has these images, such as coco:DIR or an annotation .json: its boxes are drawn, "
            "and attention on its masks is measured."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the --ground-truth dataset.", show_default="val")
    ] = None,
    image_format: ImageFormat = "png",
    trace: Annotated[
        Literal["full", "half", "none"] | None,
        typer.Option(
            help="Format of the trace file: full precision, records in half precision, or no file.",
            show_default="full; none with --view, or where all of them take over 1 GB",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="Backbone convolutions, such as 'backbone.layer4.*', to draw and to keep in the trace; may be "
            "repeated.",
            show_default="the last of each stage, drawn and not kept",
        ),
    ] = None,
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report",
            help="Write report.html, a page on which one clicks points and hovers boxes.",
            show_default="written; not with --view",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the numbers of every view as JSON instead of the tables.")
    ] = False,
    edit: EditTexts = None,
    edits: EditFile = None,
    hide: HideRegions = None,
    swap: Swaps = None,
    tile: Tile = None,
    tile_overlap: TileOverlap = None,
    tile_whole: TileWhole = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Draw the attention figures of each image into a folder, with its trace, metrics and tensor shapes.

    Images are traced by sprint-dense-n, the shipped model, where no other is named; traces need none. With --tile, two
    figures are drawn: the detections in all tiles with their attention, and the best of them one by one.
    """
    console.setup_console(quiet, log_level)
    check_writable_folder(out)
    points = [_point(text) for text in point or ()]
    tiling = tiling_of(tile, tile_overlap, tile_whole)
    if tiling is not None:
        given = {
            "view": view,
            "ground-truth": ground_truth,
            "split": split,
            "trace": trace,
            "features": features,
        }
        for name, value in {**given, "query": query, "point": point, "against": against}.items():
            if value:
                raise UserError(f"--{name} does not go with --tile, which draws the figures of all tiles")

    import json as to_text

    from detrscope.commands import see as command
    from detrscope.commands.edits import read_edits
    from detrscope.commands.see_tiles import see_tiles
    from detrscope.inference.load_detector import LoadOptions
    from detrscope.views.options import ViewOptions

    options = ViewOptions(
        queries=tuple(query or ()),
        points=tuple(points),
        layer=layer,
        head=head,
        level=level,
        from_level=from_level,
        merge=merge,
        cells=cells,
        threshold=threshold,
    )
    load_options = LoadOptions(
        weights, device, precision, engine, read_edits(edit or (), edits, hide or (), swap or ())
    )
    if tiling is not None:
        results = see_tiles(
            [*sources],
            model,
            tiling=tiling,
            options=options,
            out=out,
            image_format=image_format,
            numbers=json,
            load_options=load_options,
        )
    else:
        results = command.see(
            [*sources],
            model,
            views=view or (),
            options=options,
            against=against,
            ground_truth=ground_truth,
            split=split,
            out=out,
            image_format=image_format,
            trace_format=trace,
            features=features or (),
            report=report,
            numbers=json,
            load_options=load_options,
        )
    if json:
        # One line: indented, every weight of a map would stand on a line of its own.
        console.print_raw(to_text.dumps([result.to_json() for result in results]) + "\n")
    elif not quiet:
        _print_tables(results)
    console.log.info(f"written to {out}")


def _point(text: str) -> tuple[float, float]:
    """Return `120,80` as two numbers."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--point {text}: expected X,Y such as 120,80") from None
    return x, y


def _print_tables(results: Sequence[SeeResult]) -> None:
    """Print the files and metrics of one image; of several, a line for each."""
    from detrscope.cli.see_tables import change_table, file_table, metric_table, overview_table
    from detrscope.lens.report import report_attention_differences, report_attention_on_parts

    if len(results) > 1:
        console.print_table(overview_table(results))
        return
    for result in results:
        console.print_table(file_table(result))
        if result.changes:
            console.print_table(change_table(result))
        if result.measurements:
            console.print_table(metric_table(result))
            for line in [
                *report_attention_differences(result.measurements),
                *report_attention_on_parts(result.measurements),
            ]:
                console.print_line(line)
