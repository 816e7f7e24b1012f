"""How large a text is, and texts that fit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from detrscope.views.canvas.colours import Colour
from detrscope.views.canvas.fonts import HOUSE, runs

TITLE, NAME, TEXT = 16, 13, 12  # pixels: of a sheet, of a panel, of a caption
HINTED = 1.03  # matplotlib sets small type a little wider than Pillow measures it


@cache
def font(size: int, face: Path = HOUSE) -> ImageFont.FreeTypeFont:
    """Return a typeface, `size` pixels high; the DejaVu Sans that matplotlib brings along."""
    return ImageFont.truetype(str(face), size)


def length(text: str, size: int) -> float:
    """Return the width in pixels of one line of text, in whatever typefaces it needs."""
    return sum(font(size, face).getlength(part) for part, face in runs(text))


def write(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, ink: Colour) -> None:
    """Paint a line of text with Pillow; x is its left and y its middle."""
    x, y = xy
    for part, face in runs(text):
        draw.text((x, y), part, fill=ink, font=font(size, face), anchor="lm")
        x += font(size, face).getlength(part)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of one line of text on its plate."""
    return round(length(text, size)) + 2 * (size // 4), size + 2 * (size // 4)


def wrapped(text: str, size: int, width: float) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words; a word wider than that stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and length(longer, size) * HINTED <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def shortened(text: str, size: int, width: float) -> str:
    """The text, its middle left out where it would be wider than `width` pixels on its plate."""
    if text_size(text, size)[0] <= width:
        return text
    keep = len(text) - 1
    while keep > 2 and text_size(_middle_out(text, keep), size)[0] > width:
        keep -= 1
    return _middle_out(text, keep)


def _middle_out(text: str, keep: int) -> str:
    return f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
