"""`detrscope faithfulness`: measure whether hiding what a map ranks highest removes the detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detrscope import console
from detrscope.cli.options import (
    Data,
    Device,
    EditFile,
    EditTexts,
    Engine,
    Json,
    Log,
    Model,
    OptionalOutFolder,
    Precision,
    Quiet,
    Split,
    Weights,
)
from detrscope.core.files import check_writable_folder

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.explain.faithfulness import Faithfulness


def faithfulness(
    data: Data = "drawn-dogs:",
    model: Model = "sprint-dense-n",
    weights: Weights = None,
    split: Split = "val",
    count: Annotated[int, typer.Option(help="Number of images, the first ones of the split.")] = 100,
    threshold: Annotated[float, typer.Option(help="Minimum score of a followed detection.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Number of steps of every curve.")] = 16,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Name of a method to measure; may be repeated.", show_default="all but VPS"),
    ] = None,
    sanity: Annotated[
        int, typer.Option(help="Number of images for the check with shuffled parameters; 0 skips it.")
    ] = 20,
    region: Annotated[
        Literal["box", "badge"],
        typer.Option(
            help="Where the pointing games expect a map's maximum: in the object's box, or in its badge, the planted"
            " shortcut of dogs drawn with badges."
        ),
    ] = "box",
    masks: Annotated[int, typer.Option(help="Number of masks of D-RISE for each image.")] = 1000,
    edit: EditTexts = None,
    edits: EditFile = None,
    out: OptionalOutFolder = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    json: Json = False,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Hide what each method ranks highest, in keys and in pixels, and measure how the detections' scores fall.

    Also: whether each map's maximum lies in the object or in a planted shortcut, and whether the map depends on what
    the model learned. With --out, faithfulness.json, faithfulness.csv, pointing.csv, faithfulness.png and
    maps.png are written.
    """
    console.setup_console(quiet, log_level)
    if out is not None:
        check_writable_folder(out)

    from detrscope.commands import faithfulness as command
    from detrscope.commands.edits import read_edits
    from detrscope.inference.load_detector import LoadOptions

    result = command.faithfulness(
        model,
        data,
        split=split,
        count=count,
        threshold=threshold,
        steps=steps,
        methods=method or (),
        sanity=sanity,
        region=region,
        masks=masks,
        load_options=LoadOptions(weights, device, precision, engine, read_edits(edit or (), edits)),
        out=out,
    )
    if json:
        console.print_json(result.to_json())
    else:
        console.print_table(_areas(result))
        console.print_line(f"all cross-attention muted: {result.muted:.0%} of the score remains")
        if result.pointing:
            console.print_table(_pointing(result))
        if result.sanity:
            console.print_table(_sanity(result))


def _areas(result: Faithfulness) -> Table:
    """Return a table with a row for each method."""
    from rich.table import Table

    title = (
        f"{result.model}: {result.detections} detections in {result.images} images of {result.data}; "
        "area under the curve ± standard error, and how often better than random"
    )
    kinds = [(where, direction) for where in ("keys", "pixels") for direction in ("deletion", "insertion")]
    good = {"deletion": "low is good", "insertion": "high is good"}
    table = Table("method", *(f"{where}, {kind}\n{good[kind]}" for where, kind in kinds), title=title)
    for method in dict.fromkeys(s.method for s in result.summaries):
        cells = []
        for kind in kinds:
            (s,) = [s for s in result.summaries if (s.method, s.where, s.what) == (method, *kind)]
            cells.append(
                f"{s.area:.3f} ± {s.error:.3f}" + (f"  {s.better:.0%}" if s.method != "random" else "")
            )
        table.add_row(method, *cells)
    return table


def _pointing(result: Faithfulness) -> Table:
    """Return a table with a row for each method."""
    from rich.table import Table

    first = result.pointing[0]
    title = (
        f"pointing games, {first.detections} detections; the {result.region} covers {first.area:.1%} of the image: "
        "share of the maps whose maximum lies in it, and share of their energy in it, ± standard error"
    )
    columns = ("within half a token", "inside", "energy", "energy / area")
    table = Table("method", *columns, title=title)
    for s in result.pointing:
        table.add_row(
            s.method,
            f"{s.hits:.1%} ± {s.hits_error:.1%}",
            f"{s.inside:.1%} ± {s.inside_error:.1%}",
            f"{s.energy:.1%} ± {s.energy_error:.1%}",
            f"{s.energy / s.area:.1f}",
        )
    return table


def _sanity(result: Faithfulness) -> Table:
    """Return a table with a row for each method and a column for each stage."""
    from rich.table import Table

    stages = [*result.sanity[0].correlation]
    title = (
        "rank correlation with the map of the trained model, "
        "parameters shuffled from the predictions down to this stage"
    )
    table = Table("method", *stages, title=title)
    for method in result.sanity:
        table.add_row(method.method, *(f"{method.correlation[stage]:.2f}" for stage in stages))
    return table
