"""Errors that the command line turns into one line and an exit code."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input (exit code 2). One line: what is wrong, where, what was expected, what to do."""


class WorkFailed(Exception):
    """Failed work on right input, such as a non-finite loss (exit code 1)."""


# The user can choose another path; other errors of the disk are failures of the work.
WRONG_PATH = frozenset(
    {
        *(errno.EACCES, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM, errno.EROFS),
    }
)
REMEDIES = {
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOSPC: "free some space, or write elsewhere",
}


def in_one_line(error: Exception) -> tuple[str, int] | None:
    """Return an error in one line and its exit code: 2 for wrong input, 1 for failed work.

    None means an unexpected error, a bug of this package, which is shown with its traceback.
    """
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, WorkFailed):
        return str(error), 1
    if isinstance(error, OSError):
        return _describe_os_error(error), 2 if error.errno in WRONG_PATH and error.filename is not None else 1
    if isinstance(error, UnicodeEncodeError):
        letters = error.object[error.start : error.end]
        return (
            f"the characters {letters!r} cannot be written in {error.encoding}; rename that file or class",
            2,
        )
    if isinstance(error, MemoryError):
        return "not enough memory; use smaller images, fewer of them at once, or another machine", 1
    return None


def _describe_os_error(error: OSError) -> str:
    reason = (
        error.strerror or (os.strerror(error.errno) if error.errno else str(error)) or type(error).__name__
    )
    paths = [
        os.fsdecode(f) if isinstance(f, bytes) else str(f) for f in (error.filename, error.filename2) if f
    ]
    remedy = REMEDIES.get(error.errno or 0)
    return f"{' -> '.join(paths) + ': ' if paths else ''}{reason}{f'; {remedy}' if remedy else ''}"


def suggest_nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint such as `did you mean 'epochs'?`, or the list of valid names when nothing is near."""
    choices = sorted(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    between = "; " if any("," in choice for choice in choices) else ", "
    return f"did you mean '{close[0]}'?" if close else f"valid: {between.join(choices)}"


def suggest_site(name: str, known: Iterable[str]) -> str:
    """Return the nearest site as a hint, and all sites; those that differ in numbers only as `first to last`."""
    sites = list(known)
    groups: dict[str, list[str]] = {}
    for site in sites:
        groups.setdefault(re.sub(r"\d+", "*", site), []).append(site)
    listed = ", ".join(g[0] if len(g) == 1 else f"{g[0]} to {g[-1]}" for g in groups.values())
    close = difflib.get_close_matches(name, sites, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}it has {listed or 'none'}"
