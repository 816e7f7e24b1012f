"""`detrscope publish`: a page in which a model runs in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detrscope import console
from detrscope.cli.options import Log, Model, Quiet, Weights
from detrscope.core.files import check_writable_folder


def publish(
    model: Model = "sprint-dense-n",
    weights: Weights = None,
    out: Annotated[Path, typer.Option(help="Folder to write, for any web host.")] = Path("site"),
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Picture, folder or glob that the page offers; may be repeated.", show_default="none"
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="Archive or folder of onnxruntime-web's files, instead of fetching them by npm once.",
            show_default="fetched",
        ),
    ] = None,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Write a folder for a web host: the model runs in the visitor's browser, and so do attention and interventions.

    Nothing that a visitor drops leaves the browser.
    """
    console.setup_console(quiet, log_level)
    check_writable_folder(out)

    from detrscope.commands import publish as command

    command.publish(model, out, samples=sample or (), runtime=runtime, weights=weights)
