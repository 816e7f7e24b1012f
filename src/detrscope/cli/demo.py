"""`detrscope demo`: detect, see inside, train and film, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detrscope import console
from detrscope.cli.options import Log, OutFolder, Quiet
from detrscope.core.files import check_writable_folder


def demo(
    out: OutFolder = Path("detrscope-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Run under a minute, with fewer images and steps.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of the training.")] = 0,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Draw dogs, detect them, train a detector from scratch and film its attention; no network, no GPU.

    After an interruption, run it again to continue.
    """
    console.setup_console(quiet, log_level)
    check_writable_folder(out)
    from detrscope.commands.demo import demo as run
    from detrscope.commands.demo import demo_summary

    for line in demo_summary(run(out, quick=quick, seed=seed)):
        console.print_line(line)
