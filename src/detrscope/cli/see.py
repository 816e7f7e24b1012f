"""`detrscope see`: figures of where a model looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detrscope import console
from detrscope.cli.options import Device, ImageFormat, Log, OptionalModel, Precision, Quiet, Weights
from detrscope.core.errors import UserError
from detrscope.views import VIEWS

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.commands.see import SeeResult

FOLDER = Path("seen")
DETAILED = 1  # pictures; of more, one line each
EPILOG = "Figures: " + "; ".join(f"{name} ({view.shows})" for name, view in VIEWS.items())


def see(
    sources: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders, globs, URLs, or traces (x.trace).", metavar="SOURCE"),
    ],
    model: OptionalModel = None,
    weights: Weights = None,
    out: Annotated[
        Path, typer.Option(help="Folder; each picture has one of its own in it, with all its figures.")
    ] = FOLDER,
    view: Annotated[
        list[str] | None,
        typer.Option(help="Draw this figure of those below; may be repeated.", show_default="all that apply"),
    ] = None,
    query: Annotated[
        list[int] | None,
        typer.Option(help="Show this query; may be repeated.", show_default="those of the detections"),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            help="X,Y in pixels of the picture: where the encoder is asked; may be repeated.", metavar="X,Y"
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="From 0, or -1 for the last.", show_default="the last, or all side by side"),
    ] = None,
    head: Annotated[int | None, typer.Option(help="From 0.", show_default="merged, or side by side")] = None,
    level: Annotated[
        int | None, typer.Option(help="One map of the image, 0 the finest.", show_default="all")
    ] = None,
    from_level: Annotated[int, typer.Option(help="Of which map the token at --point is.")] = 0,
    merge: Annotated[Literal["mean", "max"], typer.Option(help="How heads are merged.")] = "mean",
    cells: Annotated[
        bool, typer.Option("--cells", help="Show each token as an even cell, not smoothed between them.")
    ] = False,
    threshold: Annotated[float, typer.Option(help="The least score of a detection, 0 to 1.")] = 0.5,
    against: Annotated[
        str | None,
        typer.Option(help="Compare with a trace of the same picture (x.trace), or with another model."),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            help="A dataset that has these pictures, such as coco:DIR or an annotation .json: its boxes are drawn, "
            "and attention on what its masks show is measured."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of that dataset.", show_default="val")] = None,
    picture_format: ImageFormat = "png",
    trace: Annotated[
        Literal["full", "half", "none"] | None,
        typer.Option(
            help="Write the trace too: exactly, with records in half precision, or not.",
            show_default="full; none with --view, or where all of them take over 1 GB",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="Convolutions of the backbone, such as 'backbone.layer4.*', to draw and to keep in the trace; may be "
            "repeated.",
            show_default="the last of each stage, drawn and not kept",
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """See inside: all figures of a picture in one folder, with its trace, its measures and its shapes.

    Pictures are looked at by sprint-dense-n, the model that ships, where no other is named; traces need none.
    """
    console.setup(quiet, log_level)
    console.check_folder(out)
    points = [_point(text) for text in point or ()]

    from detrscope.commands import see as command
    from detrscope.views.options import ViewOptions

    seen = command.see(
        [*sources],
        model,
        views=view or (),
        choice=ViewOptions(
            queries=tuple(query or ()),
            points=tuple(points),
            layer=layer,
            head=head,
            level=level,
            from_level=from_level,
            merge=merge,
            cells=cells,
            threshold=threshold,
        ),
        against=against,
        truth=truth,
        split=split,
        out=out,
        picture_format=picture_format,
        keep=trace,
        features=features or (),
        weights=weights,
        device=device,
        precision=precision,
    )
    if not quiet:
        _print(seen, out)


def _point(text: str) -> tuple[float, float]:
    """`120,80` as two numbers."""
    parts = text.split(",")
    try:
        x, y = (float(part) for part in parts)
    except ValueError:
        raise UserError(f"--point {text}: expected X,Y such as 120,80") from None
    return x, y


def _print(seen: list[SeeResult], out: Path) -> None:
    from detrscope.lens.report import in_words, on_what

    if len(seen) > DETAILED:
        console.print_table(_overview(seen))
    else:
        for one in seen:
            console.print_table(_files(one))
            if one.measures:
                console.print_table(_measures(one))
                for line in [*in_words(one.measures), *on_what(one.measures)]:
                    console.say(line)
    console.log.info(f"written to {out}")


def _files(one: SeeResult) -> Table:
    """A line for each figure and file."""
    from rich.table import Table

    table = Table("figure", "shows", "file", title=one.source)
    for name, view in VIEWS.items():
        if name in one.files:
            table.add_row(name, view.shows, str(one.files[name]))
    for name, path in one.files.items():
        if name not in VIEWS:
            table.add_row("", _size(path.stat().st_size), str(path))
    for name, reason in one.left_out.items():
        table.add_row(name, f"left out: {reason}", "")
    return table


def _measures(one: SeeResult) -> Table:
    """A line for each layer: means over heads and rows."""
    from rich.table import Table

    from detrscope.lens.report import by_layer

    columns = (
        "attention",
        "layer",
        "tokens looked at",
        "distance",
        "in box",
        "alike",
        "peak in box",
        "heads agree",
    )
    table = Table(
        *columns, title="means over heads, queries and tokens; measures.csv has each head and query"
    )
    for m in by_layer(one.measures):
        table.add_row(
            m.kind,
            str(m.layer),
            f"{m.effective:.1f} of {m.keys}",
            f"{m.distance:.0%} of diagonal",
            _percent(m.in_box),
            _percent(m.box_area),
            _percent(m.pointing),
            "-" if m.agreement is None else f"{m.agreement:.2f}",
        )
    return table


def _overview(seen: list[SeeResult]) -> Table:
    """A line for each picture."""
    from rich.table import Table

    table = Table("picture", "figures", "folder")
    for one in seen:
        figures = [name for name in one.files if name in VIEWS]
        folder = next(iter(one.files.values())).parent if one.files else ""
        table.add_row(one.source, str(len(figures)), str(folder))
    return table


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
