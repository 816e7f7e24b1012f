"""The errors that the command line turns into one line and an exit code."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong. One line: what was found, where, what was expected, what to do (exit code 2)."""


class WorkFailed(Exception):
    """The input was right and the work failed all the same, such as a non-finite loss (exit code 1)."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as `did you mean 'epochs'?`, or the list of what is valid when nothing is near."""
    choices = sorted(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    between = "; " if any("," in choice for choice in choices) else ", "
    return f"did you mean '{close[0]}'?" if close else f"valid: {between.join(choices)}"


def nearest_site(name: str, known: Iterable[str]) -> str:
    """The nearest site as a hint, and all that there are, those that differ in numbers only as `first to last`."""
    sites = list(known)
    alike: dict[str, list[str]] = {}
    for site in sites:
        alike.setdefault(re.sub(r"\d+", "*", site), []).append(site)
    listed = ", ".join(some[0] if len(some) == 1 else f"{some[0]} to {some[-1]}" for some in alike.values())
    close = difflib.get_close_matches(name, sites, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}it has {listed or 'none'}"
