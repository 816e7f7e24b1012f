"""What the terminal shows: one console, the log, progress with time left."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from detrscope.core.errors import WorkFailed
from detrscope.core.files import atomic_write as atomic_write
from detrscope.core.files import check_file as check_file
from detrscope.core.files import check_folder as check_folder
from detrscope.core.safe_text import escape_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

LogLevel = Literal["debug", "info", "warning", "error"]
log = logging.getLogger("detrscope")
NO_TERMINAL_WIDTH = 160
# The loggers that Lightning writes lines with; it sets the level of their parent whenever it is imported.
LIGHTNING = tuple(
    f"{package}.utilities.{module}"
    for package in ("lightning.fabric", "lightning.pytorch")
    for module in ("rank_zero", "distributed")
)
SECONDS_BETWEEN_LINES = 10.0  # of the log, where no bar can be shown
TABLE_WIDTH = 200  # columns of a table where the output is not a terminal, such as a file


def _make_visible(record: logging.LogRecord) -> bool:
    """Put the message on one line without control characters, whichever handler writes it, a log file too.

    Of several processes that train together, only the first tells how it goes; warnings come from all of them.
    """
    record.msg, record.args = escape_text(record.getMessage()), ()
    return record.levelno >= logging.WARNING or not _is_helper()


log.addFilter(_make_visible)


def _is_helper() -> bool:
    """Whether another process of the same training speaks for this one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() > 0)
    return any(os.environ.get(name, "0").strip() not in ("", "0") for name in ("RANK", "LOCAL_RANK"))


def _as_loud_as_we_are(record: logging.LogRecord) -> bool:
    """Hold back Lightning's lines, such as which precision it uses, where ours are held back."""
    return record.levelno >= log.level


@cache
def console() -> Console:
    """The one console; progress and tables go to standard error, results to standard output."""
    return _standard_error()


def _standard_error() -> Console:
    """A console that wraps at the terminal's width, and not at all where there is no terminal."""
    terminal = plain_console(stderr=True)
    return terminal if terminal.is_terminal else plain_console(stderr=True, width=NO_TERMINAL_WIDTH)


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that shows texts as they are: names of classes and files are no markup, nor commands to it."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            """Rich's hook for every text that is printed or stands in a table."""
            return super().render_str(escape_text(text, keep="\n"), **options)

    return Plain(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def say(text: object = "") -> None:
    """Print a line of results to standard output.

    Raises:
        WorkFailed: it cannot be written to.
    """
    print_raw(escape_text(text) + "\n")


def print_raw(text: str) -> None:
    """Print text that is safe already, such as JSON, CSV or YAML, to standard output.

    Raises:
        WorkFailed: it cannot be written to.
    """
    with _standard_output():
        sys.stdout.write(text)


def print_json(tree: Any) -> None:
    """Print plain data as JSON, in ASCII, to standard output.

    Raises:
        WorkFailed: it cannot be written to.
    """
    import json

    print_raw(json.dumps(tree, indent=1) + "\n")


def print_table(table: Table) -> None:
    """Print a table to standard output, as wide as the terminal, or `TABLE_WIDTH` columns into a file or a pipe.

    Raises:
        WorkFailed: it cannot be written to.
    """
    with _standard_output():
        plain_console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table)


@contextmanager
def _standard_output() -> Iterator[None]:
    """Say in one line that standard output is closed or its disk full; what was printed is there when this ends."""
    try:
        yield
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise
        silence_output()
        reason = getattr(error, "strerror", None) or error
        raise WorkFailed(f"standard output: cannot be written ({reason})") from None


def prepare_output() -> None:
    """Let the standard streams escape what their encoding lacks (ASCII where LANG=C), and replace closed ones."""
    if sys.stdout is None:
        sys.stdout = ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class ClosedOutput(io.TextIOBase):
    """Standard output of a process that was started without one."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Refuse all but nothing."""
        if text:
            raise OSError(errno.EBADF, "it is closed", "standard output")
        return 0


def silence_output() -> None:
    """Point standard output nowhere: Python would complain of it again when it exits."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (as long as the process)


class LineHandler(logging.Handler):
    """A line of standard error for each record, whatever its length: for files and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)-8s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; where standard error is gone, go on without."""
        with suppress(OSError, ValueError):
            print(self.format(record), file=sys.stderr, flush=True)


def setup(quiet: bool = False, level: LogLevel = "info") -> None:
    """Set up logging for a command. Quiet keeps warnings and errors and drops progress."""
    from rich.logging import RichHandler

    # Warnings are shown even when the console is quiet. Sharing it otherwise keeps log lines above a progress bar.
    screen = _standard_error() if quiet else console()
    on_terminal = RichHandler(console=screen, show_path=False, show_time=False, markup=False)
    log.handlers[:] = [on_terminal if screen.is_terminal else LineHandler()]
    log.setLevel("WARNING" if quiet else level.upper())
    log.propagate = False
    console().quiet = quiet or _is_helper()
    for name in LIGHTNING:
        logging.getLogger(name).addFilter(_as_loud_as_we_are)


def progress(*, time_left: bool = True) -> Progress:
    """Return a progress bar with counts, to be used in a `with`; without a terminal it logs lines.

    Args:
        time_left: show the time left by the rate so far; off where somebody knows it better.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Description(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(escape_text(task.description))

    class Lines(Progress):
        """A line of the log from time to time, where no bar can be shown."""

        told = time.monotonic()

        def advance(self, task_id: TaskID, advance: float = 1) -> None:
            super().advance(task_id, advance)
            if (now := time.monotonic()) - self.told > SECONDS_BETWEEN_LINES:
                self.told = now
                task = self._tasks[task_id]
                of = "" if task.total is None else f" of {task.total:g}"
                log.info("%s: %g%s", task.description, int(task.completed), of)

    on_terminal = console().is_terminal
    kind = Progress if on_terminal else Lines
    return kind(
        Description(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *((TextColumn("left", markup=False), TimeRemainingColumn()) if time_left else ()),
        console=console(),
        transient=True,
        disable=not on_terminal,
    )
