"""Options that every command shares."""

from __future__ import annotations

from typing import Annotated

import typer

from detrscope.console import LogLevel

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
Log = Annotated[LogLevel, typer.Option("--log-level", help="How much to log.")]
