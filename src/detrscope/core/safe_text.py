"""Text of users (names of classes and files) made safe to print in a terminal and to open in a spreadsheet."""

from __future__ import annotations

import unicodedata
from typing import Any

# Invisible or order-changing: controls (ESC starts a terminal's commands, NUL ends a string), lone surrogates,
# line and paragraph separators, and the marks that turn the direction of what follows.
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
FORMULA_STARTS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
)  # where a spreadsheet begins to compute (OWASP, CSV injection)


def escape_text(text: object, *, keep: str = "") -> str:
    """Return the text on one line, with control characters, lone surrogates and direction marks as escapes.

    Args:
        text: anything; its `str` is taken.
        keep: control characters to leave as they are, such as a newline in a table's cell.
    """
    text = str(text)
    if text.isprintable() and text.isascii():
        return text
    return "".join(c if c in keep or not _hidden(c) else _escaped(c) for c in text)


def csv_cell(value: Any) -> Any:
    """Return a cell that a spreadsheet shows as it is: a text that would be a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    shown = escape_text(value)
    return f"'{shown}" if value.lstrip(" ").startswith(FORMULA_STARTS) else shown


def csv_row(values: Any) -> list[Any]:
    """Return a row of `csv_cell`."""
    return [csv_cell(value) for value in values]


def _hidden(character: str) -> bool:
    return character in _DIRECTION or unicodedata.category(character) in _UNSEEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
