"""Sizes of text, and text that fits."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from detrscope.views.canvas.colours import Colour
from detrscope.views.canvas.fonts import DEFAULT_FONT, font_runs

HEADING_SIZE, TITLE_SIZE, TEXT_SIZE = 16, 13, 12  # pixels: of a figure, of a panel, of a caption
HINTED = 1.03  # matplotlib sets small text a little wider than Pillow measures it


@cache
def font(size: int, face: Path = DEFAULT_FONT) -> ImageFont.FreeTypeFont:
    """Return a typeface `size` pixels high."""
    return ImageFont.truetype(str(face), size)


def text_width(text: str, size: int) -> float:
    """Return the width in pixels of one line of text, in whatever typefaces it needs."""
    return sum(font(size, face).getlength(part) for part, face in font_runs(text))


def draw_text(
    draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, colour: Colour
) -> None:
    """Draw a line of text with Pillow; x is its left and y its middle."""
    x, y = xy
    for part, face in font_runs(text):
        draw.text((x, y), part, fill=colour, font=font(size, face), anchor="lm")
        x += font(size, face).getlength(part)


@lru_cache(maxsize=4096)
def text_size(text: str, size: int) -> tuple[int, int]:
    """Return width and height in pixels of one line of text with its margins."""
    return round(text_width(text, size)) + 2 * (size // 4), size + 2 * (size // 4)


def wrapped(text: str, size: int, width: float) -> list[str]:
    """Return lines of at most `width` pixels, broken between words; a wider word stands alone."""
    return [*_wrapped(text, size, width)]


@lru_cache(maxsize=256)  # a video has the same title above every frame
def _wrapped(text: str, size: int, width: float) -> tuple[str, ...]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) * HINTED <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return tuple(lines)


def shorten_to_width(text: str, size: int, width: float) -> str:
    """Return the text, its middle left out where it would be wider than `width` pixels with its margins."""
    result, keep = text, len(text) - 1
    while text_size(result, size)[0] > width and keep >= 2:
        result = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
        keep -= 1
    return result
