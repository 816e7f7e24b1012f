"""`detrscope compare`: two or more models on the same images, torchvision's Faster R-CNN among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.options import (
    Device,
    Engine,
    Json,
    Log,
    OptionalData,
    OptionalOutFolder,
    Precision,
    Quiet,
    Split,
)
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from detrscope.commands.comparison import Comparison

FOLDER = Path("comparison")
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="A model to compare, given two or more times: variant, checkpoint, run folder or Hugging Face id; "
        "fasterrcnn-r50-fpn or a file of torchvision's Faster R-CNN; or a variant with its weights, NAME=FILE.",
    ),
]


def compare(
    model: Models,
    sources: Annotated[
        list[str] | None, typer.Argument(help="Images, folders, globs or URLs to draw.", metavar="SOURCE")
    ] = None,
    data: OptionalData = None,
    split: Split = "val",
    threshold: Annotated[
        float, typer.Option(help="Minimum score of boxes that are counted and drawn, 0 to 1; AP has none.")
    ] = 0.5,
    pictures: Annotated[
        int,
        typer.Option(
            min=0, help="Without SOURCE, most images of --data to draw: where the models differ most."
        ),
    ] = 8,
    out: OptionalOutFolder = None,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Compare models on the same images: AP, per class, speed, objects found, and boxes before and after NMS.

    compare.json, compare.csv and pictures of the models side by side go to the folder --out ("comparison" by
    default). With --json nothing is written unless --out is given.
    """
    console.setup_console(quiet, log_level)
    if not sources and data is None:
        raise UserError("give images, or a dataset with --data")
    if out is None and not json:
        out = FOLDER
    if out is not None:
        check_writable_folder(out)

    from detrscope.commands import compare as command
    from detrscope.inference.load_detector import LoadOptions

    comparison = command.compare(
        [*model],
        [*(sources or ())],
        data=data,
        split=split,
        threshold=threshold,
        pictures=pictures,
        out=out,
        load_options=LoadOptions(None, device, precision, engine),
    )
    if json:
        console.print_json(comparison.to_json())
    else:
        for table in _tables(comparison):
            console.print_table(table)
        console.print_line(f"machine: {comparison.machine}")
    if out is not None:
        console.log.info(f"written to {out}: {len(comparison.pictures)} pictures")


def _tables(c: Comparison) -> Iterator[Table]:
    """Yield the tables for the terminal."""
    from detrscope.evaluation.report import COLUMNS, format_ap

    has_objects = c.objects is not None
    objects = f", {c.objects} objects" if has_objects else ""
    heading = (*(column.replace("AP_", "") for column in COLUMNS),) if has_objects else ()
    models = _table(
        f"{c.images} images{objects}; AP in percent, time of one image in ms",
        ("model", "kind", "params, M", "precision", *heading, "median ms", "CPU ms"),
    )
    for m in c.models:
        values = [format_ap(getattr(m.evaluation, column)) for column in COLUMNS] if has_objects else []
        size = "-" if m.parameters is None else f"{m.parameters:.1f}"
        times = (f"{m.timing.median:.1f}", f"{m.timing.cpu_median:.1f}")
        models.add_row(m.name, m.kind, size, m.precision, *values, *times)
    yield models
    if c.differences:
        yield _ap_differences_table(c)
    yield _boxes_table(c)
    if rows := c.class_rows():
        classes = _table(
            "per class; AP in percent", ("class", "boxes", *(f"{m.name}" for m in c.models)), left=1
        )
        for scores in rows:
            classes.add_row(
                scores[0].name,
                str(scores[0].boxes),
                *(f"{format_ap(s.AP)} (AP50 {format_ap(s.AP50)})" for s in scores),
            )
        yield classes
    yield _differences_table(c)


def _boxes_table(c: Comparison) -> Table:
    """Return the boxes of each model before and after NMS, and what NMS would do to its output."""
    from detrscope.evaluation.report import format_ap

    steps = (
        "queries or proposals",
        "above threshold",
        "NMS removes",
        "over limit",
        "left",
        "NMS would remove",
    )
    ap = ("AP", "AP with NMS") if c.objects is not None else ()
    table = _table(
        f"boxes of an image, mean; scores of {c.threshold:g} and more", ("model", *steps, *ap), left=1
    )
    for m in c.models:
        b = m.boxes
        counts = (b.candidates, b.above, b.removed, b.cut, b.left, b.duplicates)
        aps = () if m.evaluation is None else (format_ap(m.evaluation.AP), format_ap(m.AP_with_nms))
        table.add_row(m.name, *(f"{count / c.images:.2f}" for count in counts), *aps)
    return table


def _ap_differences_table(c: Comparison) -> Table:
    """Return the differences of AP with their intervals."""
    samples = c.differences[0].AP.samples
    title = f"differences of AP in points; 95% of {samples} samples of these {c.images} images lie in the interval"
    table = _table(title, ("model", "less", "AP", "interval", "significant"))
    for each in c.differences:
        d = each.AP
        interval = f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"
        significant = "yes" if d.is_significant else "no"
        names = c.models[each.first].name, c.models[each.second].name
        table.add_row(*names, f"{100 * d.value:+.1f}", interval, significant)
    return table


def _differences_table(c: Comparison) -> Table:
    """Return what each model finds that another does not."""
    others = tuple(f"not by {m.name}" for m in c.models)
    scores = f"scores of {c.threshold:g} and more"
    if c.objects is None:
        table = _table(f"boxes without a partner of IoU .5; {scores}", ("model", *others), left=1)
    else:
        columns = ("model", "found", "boxes on no object", *others)
        table = _table(f"objects found at IoU .5; {scores}", columns, left=1)
    for i, m in enumerate(c.models):
        own = () if c.objects is None else (f"{m.found} of {c.objects}", str(m.extra))
        table.add_row(m.name, *own, *("" if i == j else str(n) for j, n in enumerate(c.only[i])))
    return table


def _table(title: str, headings: tuple[str, ...], *, left: int = 2) -> Table:
    """Return an empty table whose first columns are text."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right")
    return table
