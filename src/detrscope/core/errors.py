"""The errors that the command line turns into one line and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong. One line: what was found, where, what was expected, what to do (exit code 2)."""


class WorkFailed(Exception):
    """The input was right and the work failed all the same, such as a non-finite loss (exit code 1)."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as `did you mean 'epochs'?`, or the list of what is valid when nothing is near."""
    choices = sorted(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(choices)}"
