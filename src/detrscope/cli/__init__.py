"""The command line: thin commands over the public functions, one file per group of commands."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # the exit code of a process that was asked to stop


def main() -> None:
    """Entry point of the `detrscope` command. Exit codes: 0 done, 1 work failed, 2 wrong input, 130 interrupted."""
    from detrscope.console import prepare_output, silence_output
    from detrscope.core.errors import in_one_line

    prepare_output()
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        _tell("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (words := _wrong_words(error)) is not None:
            print(words, file=sys.stderr)
            sys.exit(2)
        if (told := in_one_line(error)) is None:
            raise
        line, code = told
        _tell(line)
        try:
            sys.stdout.flush()
        except (OSError, ValueError):  # which is what was told
            silence_output()
        sys.exit(code)


def _run() -> int:
    """Run the command, and see its output written while an error can still be told."""
    from detrscope.cli.app import app
    from detrscope.console import print_raw
    from detrscope.core.errors import WorkFailed

    try:
        code = app(prog_name="detrscope", standalone_mode=False)
    except SystemExit:  # only so does typer leave here: it swallows a broken pipe
        raise WorkFailed("standard output: cannot be written (whatever reads it has ended)") from None
    except OSError as error:
        if error.filename is None:
            print_raw("")  # raises where it is standard output that fails, such as of the help
        raise
    if code == INTERRUPTED:  # typer makes this of a KeyboardInterrupt
        raise KeyboardInterrupt
    print_raw("")
    return int(code or 0)


def _tell(line: str) -> None:
    """Print an error to standard error, unless that is gone too."""
    from detrscope.core.safe_text import escape_text

    try:
        print(f"detrscope: {escape_text(line)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        sys.stderr = None


def _wrong_words(error: Exception) -> str | None:
    """What typer has to say of a command line that it cannot read, in one line; None where it is another error.

    Whether its exceptions are click's or its own depends on its version, so they are known by what they can do.
    """
    from detrscope.core.safe_text import escape_text

    tell, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if tell is None:
        return None
    message = str(tell())
    if "\n" in message and message.lstrip().startswith("Usage"):  # the help, where a command was to follow
        return message
    where = "detrscope" if context is None else context.command_path
    return f"detrscope: {escape_text(message.replace('Value error, ', '').rstrip('.'))}; see {where} --help"
