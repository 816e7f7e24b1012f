"""The errors that the command line turns into one line and an exit code."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong. One line: what was found, where, what was expected, what to do (exit code 2)."""


class WorkFailed(Exception):
    """The input was right and the work failed all the same, such as a non-finite loss (exit code 1)."""


# A place that cannot be written or read is the user's to choose anew; what a disk says is a failure of the work.
WRONG_PATH = frozenset(
    {
        *(
            errno.EACCES,
            errno.EEXIST,
            errno.EINVAL,
            errno.EISDIR,
            errno.ELOOP,
            errno.ENAMETOOLONG,
            errno.ENOENT,
        ),
        *(errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM, errno.EROFS),
    }
)
REMEDIES = {
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOSPC: "free some space, or write elsewhere",
}


def in_one_line(error: Exception) -> tuple[str, int] | None:
    """Return what happened in one line and the exit code: 2 where the user's input is wrong, 1 where the work failed.

    None is an error that nobody expects: a fault of ours, whose traceback is wanted.
    """
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, WorkFailed):
        return str(error), 1
    if isinstance(error, OSError):
        return _of_system(error), 2 if error.errno in WRONG_PATH and error.filename is not None else 1
    if isinstance(error, UnicodeEncodeError):
        letters = error.object[error.start : error.end]
        return f"the characters {letters!r} cannot be written in {error.encoding}; rename what has them", 2
    if isinstance(error, MemoryError):
        return "not enough memory; use smaller images, fewer of them at once, or another machine", 1
    return None


def _of_system(error: OSError) -> str:
    reason = (
        error.strerror or (os.strerror(error.errno) if error.errno else str(error)) or type(error).__name__
    )
    places = [
        os.fsdecode(f) if isinstance(f, bytes) else str(f) for f in (error.filename, error.filename2) if f
    ]
    remedy = REMEDIES.get(error.errno or 0)
    return f"{' -> '.join(places) + ': ' if places else ''}{reason}{f'; {remedy}' if remedy else ''}"


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
