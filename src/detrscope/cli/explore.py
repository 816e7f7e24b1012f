"""`detrscope explore`: the page, live."""

from __future__ import annotations

from typing import Annotated

import typer

from detrscope import console
from detrscope.cli.options import Device, Engine, Log, OptionalModel, Precision, Quiet, Weights


def explore(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, globs, URLs, or traces (x.trace); none opens an empty page.",
            metavar="SOURCE",
        ),
    ] = None,
    model: OptionalModel = None,
    weights: Weights = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8008,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the system's browser.")
    ] = True,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Open the page with a model behind it: drop pictures, mute heads, hide regions, and see the answer.

    Under another address than this machine's own, the page's address has a token, and whoever has it may use the model.
    """
    console.setup_console(quiet, log_level)

    from detrscope.commands import explore as command
    from detrscope.inference.load_detector import LoadOptions

    explorer = command.explore(
        [*(sources or ())],
        model,
        host=host,
        port=port,
        load_options=LoadOptions(weights, device, precision, engine),
    )
    console.print_line(f"open {explorer.url} in a browser; Ctrl-C ends")
    if browser:
        import webbrowser

        webbrowser.open(explorer.url)
    explorer.run()
