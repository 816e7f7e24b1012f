"""Tables on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 200  # columns where the output is not a terminal, such as a file


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or `WIDTH` columns into a file or a pipe."""
    from rich.console import Console

    Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(table)
