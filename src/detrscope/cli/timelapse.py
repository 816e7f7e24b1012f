"""`detrscope timelapse`: films of attention over a recorded training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detrscope import console
from detrscope.cli.options import Log, Quiet
from detrscope.core.files import check_writable_folder


def timelapse(
    run: Annotated[
        Path, typer.Argument(help="Run folder of `detrscope train --probe-images ...`.", metavar="RUN")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; RUN/timelapse by default.", show_default=False)
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="final (the default): all probe images beside the metrics; boxes, mean, plain: one image, attention"
            " averaged over queries, with boxes, without, or as a map with its colour bar; queries: a panel for each"
            " query, tracked over training; features: feature maps of the backbone; all. May be given several times.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Name of the probe image to film; all images by default.")
    ] = None,
    query: Annotated[
        int | None,
        typer.Option(help="With --view queries: query index in the last snapshot, shown layer by layer."),
    ] = None,
    layer: Annotated[int, typer.Option(help="Decoder layer index, from 0; negative from the end.")] = -1,
    queries: Annotated[
        Literal["detected", "all"],
        typer.Option(help="Queries whose attention is averaged: the detected ones, or all of the model."),
    ] = "detected",
    threshold: Annotated[float, typer.Option(help="Minimum score of a detected query.")] = 0.4,
    site: Annotated[
        str | None,
        typer.Option(
            help="With --view features: the convolution whose channels are shown, such as backbone.layer2.0.conv1."
        ),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Snapshots a second; by default a film lasts about 12 seconds.")
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="Write each film as a GIF too.")] = False,
    stills: Annotated[
        bool, typer.Option("--stills", help="Write each frame as a PNG too, in a folder named like the film.")
    ] = False,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Write run.html, the page of the training.")
    ] = True,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Film how attention changes while a model trains, and how much of it lies on the parts of objects."""
    console.setup_console(quiet, log_level)
    if out is not None:
        check_writable_folder(out)
    from detrscope.commands.timelapse import timelapse as run_films

    paths = run_films(
        run,
        out,
        view=view or ["final"],
        image=image,
        query=query,
        layer=layer,
        queries=queries,
        threshold=threshold,
        site=site,
        fps=fps,
        gif=gif,
        stills=stills,
        page=page,
    )
    for path in paths:
        console.print_line(path)
