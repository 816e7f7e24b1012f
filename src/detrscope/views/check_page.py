"""The page of `data check`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from detrscope.core.safe_text import escape_text
from detrscope.views.canvas.thumbnails import box_thumbnail

SIDE = 220  # pixels of a picture
COLOUR = (230, 90, 0)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1100px }
body { margin: 2rem auto; padding: 0 1rem } .error { color: #b3261e } .info { color: #555 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 12px }
.card { font-size: .85rem; overflow-wrap: anywhere } .card img { max-width: 100%; border-radius: 4px }
.card p { margin: .1rem 0 }
"""


@dataclass(frozen=True)
class Example:
    """One problem: where, what, and a JPEG of the image; None where it cannot be shown."""

    where: str
    reason: str
    picture: bytes | None


@dataclass(frozen=True)
class ProblemGroup:
    """All problems of a kind: how severe, what to do, how many, and the first of them."""

    kind: str
    severity: str
    fix: str
    count: int
    examples: Sequence[Example]


def check_page_html(source: str, statistics: Sequence[str], groups: Sequence[ProblemGroup]) -> str:
    """Return the page as text.

    Args:
        source: name of the dataset.
        statistics: a line for each split.
        groups: problems by kind, the most severe first.
    """
    sections = "".join(
        f'<h2 class="{group.severity}">{_text(group.severity)}: {_text(group.kind)} ({group.count})</h2>'
        f"<p>What to do: {_text(group.fix)}.</p>"
        f'<div class="cards">{"".join(map(_card, group.examples))}</div>'
        + (
            f"<p>... and {group.count - len(group.examples)} more.</p>"
            if group.count > len(group.examples)
            else ""
        )
        for group in groups
    )
    lines = "".join(f"<p>{_text(line)}</p>" for line in statistics)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"><title>{_text(source)}</title>
<style>{STYLE}</style></head><body>
<h1>{_text(source)}</h1>
{lines}
{sections or "<p>No problems.</p>"}
</body></html>
"""


def thumbnail(image: np.ndarray, box_xywh: tuple[float, float, float, float] | None) -> bytes:
    """Return a small JPEG of an image, with a box where there is one.

    Args:
        image: uint8 [H, W, 3].
        box_xywh: pixels; it may lie outside of the image.
    """
    box = None
    if box_xywh is not None:
        x, y, width, height = box_xywh
        box = x, y, x + width, y + height
    return box_thumbnail(image, box, COLOUR, side=SIDE, quality=80)


def _card(example: Example) -> str:
    picture = ""
    if example.picture is not None:
        data = base64.b64encode(example.picture).decode()
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="{_text(example.where)}">'
    return f'<div class="card">{picture}<p>{_text(example.where)}</p><p>{_text(example.reason)}</p></div>'


def _text(text: str) -> str:
    """Return text for HTML: no tags, no control characters."""
    return escape(escape_text(text))
