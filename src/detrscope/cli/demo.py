"""`detrscope demo`: everybody's first five minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detrscope import console
from detrscope.cli.options import Log, Quiet


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("detrscope-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: everything, but less of it.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Draw dogs, detect them, train a detector from scratch and film its attention; no network, no GPU.

    Interrupted and run again, it goes on where it was.
    """
    console.setup(quiet, log_level)
    console.check_folder(out)
    from detrscope.commands.demo import demo as run
    from detrscope.commands.demo import summary

    console.say(summary(run(out, quick=quick, seed=seed)))
