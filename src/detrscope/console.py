"""What the terminal shows: one rich console, the log, progress bars with time left, and files written whole or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

LogLevel = Literal["debug", "info", "warning", "error"]
log = logging.getLogger("detrscope")


@cache
def console() -> Console:
    """The one console; progress and tables go to standard error, results to standard output."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def setup(quiet: bool = False, level: LogLevel = "info") -> None:
    """Set up logging for a command. Quiet keeps warnings and errors and drops tables and progress."""
    from rich.logging import RichHandler

    console().quiet = quiet
    log.handlers[:] = [RichHandler(console=console(), show_path=False, show_time=False, markup=False)]
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
    )


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` when the block succeeds, removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
