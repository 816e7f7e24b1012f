"""The command line: thin commands over the public functions, one file per group of commands."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # the exit code of a process that was asked to stop


def main() -> None:
    """Entry point of the `detrscope` command. Exit codes: 0 done, 1 work failed, 2 wrong input, 130 interrupted."""
    from detrscope.cli.app import app
    from detrscope.core.errors import UserError, WorkFailed

    try:
        code = app(prog_name="detrscope", standalone_mode=False)
        if code == INTERRUPTED:  # typer makes this of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.exit(code)
    except UserError as error:
        print(f"detrscope: {error}", file=sys.stderr)
        sys.exit(2)
    except WorkFailed as error:
        print(f"detrscope: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("detrscope: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (line := _wrong_words(error)) is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(2)


def _wrong_words(error: Exception) -> str | None:
    """What typer has to say of a command line that it cannot read, in one line; None where it is another error.

    Whether its exceptions are click's or its own depends on its version, so they are known by what they can do.
    """
    tell, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if tell is None:
        return None
    message = str(tell())
    if "\n" in message:  # the help, where a command was to follow
        return message
    where = "detrscope" if context is None else context.command_path
    return f"detrscope: {message.replace('Value error, ', '').rstrip('.')}; see {where} --help"
