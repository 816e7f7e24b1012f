"""Terminal output: one console, the log, results on standard output, progress with time left."""

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
from detrscope.core.safe_text import escape_text
from detrscope.core.third_party_log import forward_to

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

LogLevel = Literal["debug", "info", "warning", "error"]
log = logging.getLogger("detrscope")
NO_TERMINAL_WIDTH = 160
# Lightning's loggers; it sets the level of their parent whenever it is imported.
LIGHTNING = tuple(
    f"{package}.utilities.{module}"
    for package in ("lightning.fabric", "lightning.pytorch")
    for module in ("rank_zero", "distributed")
)
SECONDS_BETWEEN_LINES = 10.0  # of the log, where no bar can be shown
TABLE_WIDTH = 200  # columns of a table where the output is not a terminal, such as a file


def _make_visible(record: logging.LogRecord) -> bool:
    """Put a message on one line without control characters, for every handler; drop infos of helper processes.

    Of the processes of a training run, only the first logs its progress; warnings come from all of them.
    """
    record.msg, record.args = escape_text(record.getMessage()), ()
    return record.levelno >= logging.WARNING or not _is_helper()


log.addFilter(_make_visible)


def _is_helper() -> bool:
    """Return whether another process of the same training logs for this one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() > 0)
    return any(
        os.environ.get(name, "0").strip() not in ("", "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    )


def _into_our_log(record: logging.LogRecord) -> bool:
    """Log Lightning's lines, such as which precision it uses, as ours; its own handler never gets them."""
    log.log(record.levelno, "Lightning: %s", record.getMessage())
    return False


@cache
def console() -> Console:
    """Return the console of log and progress, on standard error; results go to standard output."""
    return _standard_error()


def _standard_error() -> Console:
    """Return a console that wraps at the terminal's width, and hardly at all without a terminal."""
    terminal = plain_console(stderr=True)
    return terminal if terminal.is_terminal else plain_console(stderr=True, width=NO_TERMINAL_WIDTH)


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that takes no text as markup or as terminal commands, such as names of classes and files."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            """Escape every text that is printed or is in a table."""
            return super().render_str(escape_text(text, keep="\n"), **options)

    return Plain(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def print_line(text: object = "") -> None:
    """Print a line of results to standard output; like the functions below, raise WorkFailed if that fails."""
    print_raw(escape_text(text) + "\n")


def print_raw(text: str) -> None:
    """Print text that is safe already, such as JSON, CSV or YAML, to standard output."""
    with _standard_output():
        sys.stdout.write(text)


def print_json(tree: Any) -> None:
    """Print plain data as JSON, in ASCII, to standard output."""
    import json

    print_raw(json.dumps(tree, indent=1) + "\n")


def print_table(table: Table) -> None:
    """Print a table to standard output, as wide as the terminal, or `TABLE_WIDTH` columns into a file or a pipe."""
    with _standard_output():
        plain_console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table)


@contextmanager
def _standard_output() -> Iterator[None]:
    """Flush standard output at the end; raise WorkFailed where it is closed or its disk is full."""
    try:
        yield
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise
        silence_console()
        reason = getattr(error, "strerror", None) or error
        raise WorkFailed(f"standard output: cannot be written ({reason})") from None


def prepare_console() -> None:
    """Escape characters that the standard streams cannot encode (LANG=C), and replace closed streams."""
    if sys.stdout is None:
        sys.stdout = ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class ClosedOutput(io.TextIOBase):
    """Standard output of a process that was started without one: writing fails."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Raise OSError, except for an empty text."""
        if text:
            raise OSError(errno.EBADF, "it is closed", "standard output")
        return 0


def silence_console() -> None:
    """Redirect standard output to nowhere: Python would report its failure again at exit."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (as long as the process)


class LineHandler(logging.Handler):
    """Handler that writes each record as one line to standard error, for files and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)-8s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless standard error is closed."""
        with suppress(OSError, ValueError):
            print(self.format(record), file=sys.stderr, flush=True)


def setup_console(quiet: bool = False, level: LogLevel = "info") -> None:
    """Set up logging for a command. Quiet keeps warnings and errors and drops progress.

    Warnings of Python and of other packages become lines of the log too.
    """
    from rich.logging import RichHandler

    # A quiet console would hide warnings too. Otherwise it is shared, which keeps log lines above a progress bar.
    screen = _standard_error() if quiet else console()
    on_terminal = RichHandler(console=screen, show_path=False, show_time=False, markup=False)
    log.handlers[:] = [on_terminal if screen.is_terminal else LineHandler()]
    log.setLevel("WARNING" if quiet else level.upper())
    log.propagate = False
    forward_to(log)
    console().quiet = quiet or _is_helper()
    for name in LIGHTNING:
        logging.getLogger(name).addFilter(_into_our_log)


def progress(*, time_left: bool = True) -> Progress:
    """Return a progress bar with counts, to be used in a `with`; without a terminal it logs lines.

    A task that is added with `unit="frames/s"` shows its speed.

    Args:
        time_left: show the time left by the rate so far.
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

    def speed(task: Task, before: str = "") -> str:
        unit, rate = task.fields.get("unit"), task.speed
        return f"{before}{rate:.1f} {unit}" if unit and rate else ""

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(speed(task))

    class Description(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(escape_text(task.description))

    class Lines(Progress):
        """Progress as a log line from time to time, where no bar can be shown."""

        logged = time.monotonic()

        def advance(self, task_id: TaskID, advance: float = 1) -> None:
            super().advance(task_id, advance)
            if (now := time.monotonic()) - self.logged > SECONDS_BETWEEN_LINES:
                self.logged = now
                task = self._tasks[task_id]
                of = "" if task.total is None else f" of {task.total:g}"
                log.info("%s: %g%s%s", task.description, int(task.completed), of, speed(task, ", "))

    on_terminal = console().is_terminal
    kind = Progress if on_terminal else Lines
    return kind(
        Description(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *((TextColumn("left", markup=False), TimeRemainingColumn()) if time_left else ()),
        Speed(),
        console=console(),
        redirect_stdout=False,  # results are printed beside it, and its console is standard error
        transient=True,
        disable=not on_terminal,
    )
