"""Names of splits: `val` also matches `valid` and `val2017`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from detrscope.core.errors import UserError, suggest_nearest

ANY = "*"  # the name of the only split of a layout that has no splits
ALIASES = ({"train", "training"}, {"val", "valid", "validation"}, {"test", "testing"})


def canonical_split(name: str) -> str:
    """Return the usual name of a split: val2017 -> val, valid -> val."""
    short = name.casefold().rstrip("0123456789") or name.casefold()
    return next((min(group, key=len) for group in ALIASES if short in group), short)


def find_split(wanted: str, available: Iterable[str], where: str) -> str:
    """Return the name in `available` that `wanted` means.

    Raises:
        UserError: none or several match; `where` is named.
    """
    names = list(available)
    if names == [ANY] or wanted in names:
        return ANY if names == [ANY] else wanted
    matches = [n for n in names if canonical_split(n) == canonical_split(wanted)]
    if not matches:  # train_v2 for train, but never trainval
        starts = re.compile(rf"{re.escape(wanted)}[^a-zA-Z].*")
        matches = [n for n in names if starts.fullmatch(n)]
    if len(matches) > 1:
        raise UserError(f"{where}: split '{wanted}' may be {' or '.join(sorted(matches))}; choose one")
    if not matches:
        raise UserError(f"{where}: no split '{wanted}'; {suggest_nearest(wanted, names)}")
    return matches[0]
