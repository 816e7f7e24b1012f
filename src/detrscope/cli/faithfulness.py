"""`detrscope faithfulness`: does hiding what a map shows remove the detection?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.options import Device, Log, Model, Precision, Quiet, Split, Weights

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.explain.faithfulness import Faithfulness


def faithfulness(
    data: Annotated[
        str, typer.Option(help="Dataset: a folder, coco:DIR, yolo:DIR, voc:DIR, drawn-dogs:, or a .json.")
    ] = "drawn-dogs:",
    model: Model = "sprint-dense-n",
    weights: Weights = None,
    split: Split = "val",
    count: Annotated[int, typer.Option(help="How many images, the first ones of the split.")] = 100,
    threshold: Annotated[float, typer.Option(help="Least score of a detection that is followed.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Of every curve.")] = 16,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this method; may be repeated.", show_default="all")
    ] = None,
    sanity: Annotated[
        int, typer.Option(help="Images for the check with shuffled parameters; 0 leaves it out.")
    ] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Folder for faithfulness.json, faithfulness.csv and faithfulness.png.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the tables.")] = False,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Hide what each method ranks highest, in keys and in pixels, and measure how the detections' scores fall."""
    console.setup(quiet, log_level)
    if out is not None:
        console.check_folder(out)

    from detrscope.commands import faithfulness as command

    found = command.faithfulness(
        model,
        data,
        split=split,
        count=count,
        threshold=threshold,
        steps=steps,
        methods=method or (),
        sanity=sanity,
        weights=weights,
        device=device,
        precision=precision,
        out=out,
    )
    if json:
        console.print_json(found.to_json())
    else:
        console.print_table(_areas(found))
        console.say(f"all cross-attention muted: {found.muted:.0%} of the score is left")
        if found.sanity:
            console.print_table(_sanity(found))


def _areas(found: Faithfulness) -> Table:
    """A line for each method."""
    from rich.table import Table

    title = (
        f"{found.model}: {found.detections} detections in {found.images} images of {found.data}; area under the curve "
        "± standard error, and how often better than random"
    )
    kinds = [(where, what) for where in ("keys", "pixels") for what in ("deletion", "insertion")]
    lower = {"deletion": "low is good", "insertion": "high is good"}
    table = Table("method", *(f"{where}, {what}\n{lower[what]}" for where, what in kinds), title=title)
    for method in dict.fromkeys(s.method for s in found.summaries):
        cells = []
        for kind in kinds:
            (s,) = [s for s in found.summaries if (s.method, s.where, s.what) == (method, *kind)]
            cells.append(
                f"{s.area:.3f} ± {s.error:.3f}" + (f"  {s.better:.0%}" if s.method != "random" else "")
            )
        table.add_row(method, *cells)
    return table


def _sanity(found: Faithfulness) -> Table:
    """A column for each stage."""
    from rich.table import Table

    stages = [*found.sanity[0].correlation]
    title = "rank correlation with the true map, parameters shuffled from the predictions down to this stage"
    table = Table("method", *stages, title=title)
    for one in found.sanity:
        table.add_row(one.method, *(f"{one.correlation[stage]:.2f}" for stage in stages))
    return table
