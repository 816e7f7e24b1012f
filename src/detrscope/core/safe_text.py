"""Make foreign text (names of classes and files) safe for a terminal and for a spreadsheet."""

from __future__ import annotations

import unicodedata
from typing import Any

# Controls (ESC starts terminal commands, NUL ends a string), lone surrogates, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
FORMULA_STARTS = tuple("=+-@\t\r\n")  # a spreadsheet computes such cells (OWASP, CSV injection)


def escape_text(text: object, *, keep: str = "") -> str:
    """Return the text on one line, with control characters, lone surrogates and direction marks as escapes.

    Args:
        text: any object; its `str` is taken.
        keep: control characters that are not escaped, such as a newline in a table's cell.
    """
    text = str(text)
    if text.isprintable() and text.isascii():
        return text
    hidden = {c for c in text if c in _DIRECTION or unicodedata.category(c) in _HIDDEN} - set(keep)
    escapes = {ord(c): c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in hidden}
    return text.translate(escapes)


def safe_csv_cell(value: Any) -> Any:
    """Return a cell that a spreadsheet does not compute: a text like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    shown = escape_text(value)
    return f"'{shown}" if value.lstrip(" ").startswith(FORMULA_STARTS) else shown


def safe_csv_row(values: Any) -> list[Any]:
    """Return `safe_csv_cell` of each value."""
    return [safe_csv_cell(value) for value in values]
