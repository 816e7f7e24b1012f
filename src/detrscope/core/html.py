"""HTML of results in a notebook: escaped, of bounded size, without scripts and links."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any, TypeVar

from detrscope.core.safe_text import escape_text

T = TypeVar("T")
MAX_ROWS = 12  # of a table; the rest is counted in a line below
MAX_SHOWN = 4  # results of a list
MAX_TEXT = 80  # characters of a cell


def html_text(text: object, most: int = MAX_TEXT) -> str:
    """Return a text that may come from a file as HTML: on one line, escaped, shortened at its end."""
    line = escape_text(text)
    return escape(line if len(line) <= most else line[: most - 3] + "...")


def html_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", most: int = MAX_ROWS
) -> str:
    """Return a small table: numbers to the right, every cell escaped.

    Args:
        headings: of the columns; none where empty.
        rows: cells; a float is shown with three digits.
        title: line above the table.
        most: rows that are shown; a line below says how many more there are.
    """
    head = f"<tr>{''.join(f'<th>{html_text(text)}</th>' for text in headings)}</tr>" if headings else ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:most])
    above = f"<div><b>{html_text(title, 5 * MAX_TEXT)}</b></div>" if title else ""
    below = f"<div>and {len(rows) - most} more</div>" if len(rows) > most else ""
    return f"{above}<table><tbody>{head}{body}</tbody></table>{below}"


def html_image(data: bytes, kind: str, alt: str = "") -> str:
    """Return an encoded image as part of the page; `kind` is png or jpeg."""
    source = f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"
    return f'<div><img src="{source}" alt="{html_text(alt)}" style="max-width:100%"></div>'


class ResultList(list[T]):
    """A list of results, which a notebook shows as they show themselves; the first of them where there are many."""

    def _repr_html_(self) -> str:
        shown = [item._repr_html_() for item in self[:MAX_SHOWN] if hasattr(item, "_repr_html_")]
        more = f"<div>and {len(self) - MAX_SHOWN} more results</div>" if len(self) > MAX_SHOWN else ""
        return "".join(shown) + more


def _cell(value: Any) -> str:
    is_number = isinstance(value, int | float)
    text = f"{value:.3g}" if isinstance(value, float) else value
    return f'<td style="text-align:{"right" if is_number else "left"}">{html_text(text)}</td>'
