"""`detrscope timelapse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detrscope import console
from detrscope.cli.options import Log, Quiet


def timelapse(
    run: Annotated[Path, typer.Argument(help="A run folder of `detrscope train --probe-images ...`.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to; RUN/timelapse without it.")
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="final (the default): all pictures beside the metrics; boxes, merged, plain: one picture, attention"
            " merged over queries, with boxes, without, or as a map with its scale; queries: a panel for each query,"
            " followed over training; features: maps of the backbone; all. May be given several times.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[str | None, typer.Option(help="The name of one probe image; all without it.")] = None,
    query: Annotated[
        int | None,
        typer.Option(
            help="With --view queries: only the one with this number in the last look, layer by layer."
        ),
    ] = None,
    layer: Annotated[int, typer.Option(help="Decoder layer; negative counts from the end.")] = -1,
    over: Annotated[
        Literal["found", "all"],
        typer.Option(help="Merge over the queries that found something, or over all of the model."),
    ] = "found",
    threshold: Annotated[float, typer.Option(help="The least score of a query that counts as found.")] = 0.4,
    site: Annotated[
        str | None,
        typer.Option(
            help="With --view features: the channels of this convolution, such as backbone.layer2.0.conv1."
        ),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Moments a second; without it a film lasts about 12 seconds.")
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="Write each film as a GIF too.")] = False,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Film how attention grew while a model learned, and how much of it lay on the parts of its objects."""
    console.setup(quiet, log_level)
    if out is not None:
        console.check_folder(out)
    from detrscope.commands.timelapse import timelapse as run_films

    paths = run_films(
        run,
        out,
        view=view or ["final"],
        image=image,
        query=query,
        layer=layer,
        over=over,
        threshold=threshold,
        site=site,
        fps=fps,
        gif=gif,
    )
    for path in paths:
        console.say(path)
