"""`detrscope ablate`: mute each part of a model in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.options import (
    Device,
    EditFile,
    EditTexts,
    Engine,
    Json,
    Log,
    OptionalData,
    OptionalModel,
    OptionalOutFolder,
    Precision,
    Quiet,
    Split,
    Weights,
)
from detrscope.core.files import check_writable_folder

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.explain.ablation import Ablation

SHOWN = 20  # rows of the table; the files have all


def ablate(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Images, folders, globs or URLs; none with --data.", metavar="SOURCE"),
    ] = None,
    model: OptionalModel = None,
    weights: Weights = None,
    data: OptionalData = None,
    split: Split = "val",
    count: Annotated[int, typer.Option(help="Number of images of --data, the first ones; 0 is all.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Images of --data in a batch.")] = 1,
    threshold: Annotated[float, typer.Option(help="Minimum score of a detection in images.")] = 0.5,
    groups: Annotated[int, typer.Option(help="Number of groups of queries to mute; 0 for none.")] = 10,
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
    """Mute every head, level, layer and group of queries in turn: what each does to scores and boxes, or to AP.

    With --out, ablation.json, ablation.csv and ablation.png are written. The text of each part goes to --edit of see.
    """
    console.setup_console(quiet, log_level)
    if out is not None:
        check_writable_folder(out)

    from detrscope.commands import ablate as command
    from detrscope.commands.edits import read_edits
    from detrscope.inference.load_detector import LoadOptions

    result = command.ablate(
        [*(sources or ())],
        model,
        data=data,
        split=split,
        count=count,
        batch_size=batch_size,
        threshold=threshold,
        groups=groups,
        out=out,
        load_options=LoadOptions(weights, device, precision, engine, read_edits(edit or (), edits)),
    )
    if json:
        console.print_json(result.to_json())
    else:
        console.print_table(_effects(result))


def _effects(result: Ablation) -> Table:
    """Return a line for each part, those that lose most first."""
    from rich.table import Table

    effects = result.strongest()[:SHOWN]
    rest = len(result.effects) - len(effects)
    caption = f"{rest} more, which lose less, are in the files and in --json" if rest else None
    if result.ap is not None:
        title = f"{result.model}, {result.images} images of {result.source}: AP {result.ap:.3f} undisturbed"
        table = Table("part", "AP", "AP50", "edit", title=title, caption=caption)
        for e in effects:
            table.add_row(_named(e.unit.site, e.unit.name), f"{e.ap:+.3f}", f"{e.ap50:+.3f}", e.unit.edit)
        return table
    title = f"{result.model}, {result.detections} detections in {result.source}; means over them"
    table = Table("part", "score", "IoU", "vanished", "appeared", "edit", title=title, caption=caption)
    for e in effects:
        counts = (str(e.vanished), str(e.appeared))
        table.add_row(
            _named(e.unit.site, e.unit.name), f"{e.score:+.3f}", f"{e.iou:.2f}", *counts, e.unit.edit
        )
    return table


def _named(site: str, name: str) -> str:
    return f"{site}, {name}"
