"""The command line: thin commands over the public functions, one file per command or group."""

from __future__ import annotations

import logging
import os
import re
import sys

INTERRUPTED = 130  # exit code after Ctrl-C
SPINS = "1000"  # turns of the loop in which an idle thread of OpenMP waits before it sleeps


def main() -> None:
    """Run the `detrscope` command. Exit codes: 0 done, 1 work failed, 2 wrong input, 130 interrupted."""
    from detrscope.console import log, prepare_console, silence_console
    from detrscope.core.errors import in_one_line

    _share_cores()
    prepare_console()
    log.addFilter(_name_options)
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        _print_error("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (usage_error := _usage_error(error)) is not None:
            print(usage_error, file=sys.stderr)
            sys.exit(2)
        if (described := in_one_line(error)) is None:
            raise
        line, code = described
        _print_error(line)
        try:
            sys.stdout.flush()
        except (OSError, ValueError):  # the error just printed
            silence_console()
        sys.exit(code)


def _share_cores() -> None:
    """Let idle threads of OpenMP sleep early; must run before torch is imported.

    By default they spin for milliseconds, and where another process computes, the thread that all of them wait for gets
    no core meanwhile: two trainings at once on two cores did less than a fourth of what they do with short waits. On an
    idle machine the two are alike (docs/machines.md).
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _run() -> int:
    """Run the command and flush its output while an error can still be reported."""
    if (
        "_DETRSCOPE_COMPLETE" in os.environ
    ):  # else typer wraps help texts, and shells take each line for a word
        os.environ.setdefault("TERMINAL_WIDTH", "10000")
    from detrscope.cli.app import app
    from detrscope.console import print_raw
    from detrscope.core.errors import WorkFailed

    try:
        code = app(prog_name="detrscope", standalone_mode=False)
    except SystemExit as end:
        if not end.code:  # shell completion has printed its answer
            return 0
        # typer swallows a broken pipe and exits
        raise WorkFailed("standard output: cannot be written (its reader has ended)") from None
    except OSError as error:
        if error.filename is None:
            print_raw("")  # raises if standard output is what failed, as for the help
        raise
    if code == INTERRUPTED:  # typer's exit code for a KeyboardInterrupt
        raise KeyboardInterrupt
    print_raw("")
    return int(code or 0)


def as_options(message: str) -> str:
    """Write the arguments that a message names, such as `resume=True`, as options of the command line."""
    message = re.sub(r"(?<![\w.-])(resume|overwrite|store_thresholds|dry_run)=True\b", r"--\1", message)
    message = re.sub(
        r"(?<![\w.-])(from_|data|probe_images|out|runtime)=", lambda m: f"--{m[1].strip('_')} ", message
    )
    return re.sub(r"--(probe|store|dry)_(images|thresholds|run)\b", r"--\1-\2", message)


def _name_options(record: logging.LogRecord) -> bool:
    """Write the arguments that a line of the log names as options."""
    record.msg, record.args = as_options(record.getMessage()), ()
    return True


def _print_error(line: str) -> None:
    """Print an error to standard error, unless that is closed too."""
    from detrscope.core.safe_text import escape_text

    try:
        print(f"detrscope: {escape_text(as_options(line))}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        sys.stderr = None


def _usage_error(error: Exception) -> str | None:
    """Return typer's message about a malformed command line, in one line; None for any other error.

    Its exceptions are click's or its own, depending on its version, so they are recognised by their methods.
    """
    from detrscope.core.safe_text import escape_text

    format_message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if format_message is None:
        return None
    message = str(format_message())
    if "\n" in message and message.lstrip().startswith("Usage"):  # the help, for a missing subcommand
        return message
    where = "detrscope" if context is None else context.command_path
    return f"detrscope: {escape_text(message.replace('Value error, ', '').rstrip('.'))}; see {where} --help"
