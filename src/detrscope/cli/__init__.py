"""The command line: thin commands over the public functions, one file per group of commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `detrscope` command. Exit codes: 0 done, 1 work failed, 2 wrong input, 130 interrupted."""
    from detrscope.cli.app import app
    from detrscope.core.errors import UserError, WorkFailed

    try:
        app()
    except UserError as error:
        print(f"detrscope: {error}", file=sys.stderr)
        sys.exit(2)
    except WorkFailed as error:
        print(f"detrscope: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("detrscope: interrupted", file=sys.stderr)
        sys.exit(130)
