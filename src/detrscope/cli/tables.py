"""Tables on standard output."""

from __future__ import annotations

from detrscope.console import print_table as print_table
