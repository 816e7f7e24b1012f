"""The one typeface: how large a text is, and texts that fit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

TITLE, NAME, TEXT = 16, 13, 12  # pixels: of a sheet, of a panel, of a caption
HINTED = 1.03  # matplotlib sets small type a little wider than Pillow measures it


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The one typeface, `size` pixels high: the DejaVu Sans that matplotlib brings along."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of one line of text on its plate."""
    return round(font(size).getlength(text)) + 2 * (size // 4), size + 2 * (size // 4)


def wrapped(text: str, size: int, width: float) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words; a word wider than that stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) * HINTED <= width:
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
