"""What the terminal shows: one console, the log, progress with time left."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Literal

from detrscope.core.files import written_whole as written_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

LogLevel = Literal["debug", "info", "warning", "error"]
log = logging.getLogger("detrscope")
NO_TERMINAL_WIDTH = 160


@cache
def console() -> Console:
    """The one console; progress and tables go to standard error, results to standard output."""
    return _standard_error()


def _standard_error() -> Console:
    """A console that wraps at the terminal's width, and not at all where there is no terminal."""
    from rich.console import Console

    terminal = Console(stderr=True, highlight=False)
    return (
        terminal if terminal.is_terminal else Console(stderr=True, highlight=False, width=NO_TERMINAL_WIDTH)
    )


def setup(quiet: bool = False, level: LogLevel = "info") -> None:
    """Set up logging for a command. Quiet keeps warnings and errors and drops tables and progress."""
    from rich.logging import RichHandler

    console().quiet = quiet
    # Warnings are shown even when the console is quiet. Sharing it otherwise keeps log lines above a progress bar.
    screen = _standard_error() if quiet else console()
    log.handlers[:] = [RichHandler(console=screen, show_path=False, show_time=False, markup=False)]
    log.setLevel("WARNING" if quiet else level.upper())
    log.propagate = False


def progress() -> Progress:
    """A progress bar with counts and time left, to be used in a `with`."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
        disable=not console().is_terminal,
    )
