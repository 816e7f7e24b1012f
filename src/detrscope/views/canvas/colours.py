"""Colours of classes, of plot lines, and of numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

Colour = tuple[int, int, int]  # red, green, blue, 0..255
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
# Told apart with every common kind of colour blindness: Okabe and Ito, "Color Universal Design" (2008),
# without its black and with the purple of Tol's "bright" scheme for its pale pink, which photographs swallow.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky
    (0, 158, 115),  # green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (170, 51, 119),  # purple
)
LINES = (4, 5, 2, 6, 0, 1)  # indices of PALETTE that show on white paper, the darkest first
SEQUENTIAL = "inferno"  # even in lightness: reads the same to the colour-blind and in print
DIVERGING = "PuOr"  # orange below zero, purple above: told apart with every common kind of colour blindness
DARKEST = 0.25  # start of SEQUENTIAL over an image: its black would read as shadow
MIN_MARKER_OPACITY = 0.3
MAX_OPACITY = 0.85  # of the greatest value over an image
TIMES_EVEN = 4  # the full colour of a map over an image takes at least so many times even attention


def class_colours(names: Iterable[str]) -> dict[str, Colour]:
    """Return a colour for each class name.

    The name alone picks the colour, so that a class looks the same in every figure; a class whose colour is taken moves
    to the next free one as long as there are any. Pass all classes of a model for colours that are stable then too.
    """
    colours: dict[str, Colour] = {}
    taken: set[int] = set()
    for name in sorted(set(names)):
        slot = zlib.crc32(name.encode("utf-8", "surrogatepass")) % len(PALETTE)
        while slot in taken and len(taken) < len(PALETTE):
            slot = (slot + 1) % len(PALETTE)
        taken.add(slot)
        colours[name] = PALETTE[slot]
    return colours


def text_colour_on(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read on a background."""
    red, green, blue = background
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else WHITE


def line_colour(index: int) -> Colour:
    """Return the colour of the `index`-th line of a plot."""
    return PALETTE[LINES[index % len(LINES)]]


def line_style(index: int) -> dict[str, Any]:
    """Return colour and dash of the `index`-th line of a plot: colours first, then other dashes."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": colour_range(line_colour(index)),
        "linestyle": dashes[index // len(LINES) % len(dashes)],
        "linewidth": 1.6,
    }


def colour_range(colour: Colour) -> tuple[float, float, float]:
    """Return a colour in 0..1, the form that matplotlib takes."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


@dataclass(frozen=True)
class Scale:
    """Colour scale of numbers; values below `low` and above `high` get the end colours.

    Attributes:
        low: value of the darkest colour, or of the most orange one.
        high: value of the brightest colour, or of the most purple one.
        label: quantity and unit, written beside the colour bar.
        diverging: from orange over white to purple, instead of from dark to bright.
    """

    low: float
    high: float
    label: str = ""
    diverging: bool = False

    @classmethod
    def from_zero(cls, *values: np.ndarray, label: str = "") -> Scale:
        """Return a scale from 0 to the greatest value."""
        return cls(0.0, max((float(v.max()) for v in values if v.size), default=0.0) or 1e-9, label)

    @classmethod
    def from_even(cls, *maps: np.ndarray, label: str = "") -> Scale:
        """Return a scale from even attention to the greatest weight, but at least to 4 times even attention.

        Even attention is a map's mean; of several maps the least mean counts. Over an image a flat map then shows
        nothing, instead of drowning it in the colour of its peak.
        """
        known = [map_ for map_ in maps if map_.size]
        even = max(0.0, min((float(map_.mean()) for map_ in known), default=0.0))
        return cls(even, max(cls.from_zero(*known).high, TIMES_EVEN * even), label)

    @classmethod
    def symmetric(cls, *values: np.ndarray, label: str = "") -> Scale:
        """Return a diverging scale, symmetric about zero."""
        most = max((float(np.abs(v).max()) for v in values if v.size), default=0.0) or 1e-9
        return cls(-most, most, label, diverging=True)

    def fraction(self, values: np.ndarray) -> np.ndarray:
        """Return the position of values on the scale, 0..1."""
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)

    def opaque(self, values: np.ndarray) -> np.ndarray:
        """Return opaque colours: [...] -> float [..., 4]."""
        name = DIVERGING if self.diverging else SEQUENTIAL
        return np.asarray(matplotlib.colormaps[name](self.fraction(values)))

    def translucent(self, values: np.ndarray) -> np.ndarray:
        """Return colours that are transparent at zero, to lie over an image: [...] -> float [..., 4]."""
        fraction = self.fraction(values)
        strength = np.abs(2 * fraction - 1) if self.diverging else fraction
        colours = self.opaque(values) if self.diverging else _brightened(fraction)
        colours[..., 3] = MAX_OPACITY * strength * (2 - strength)
        return colours

    def marker_colours(self, values: np.ndarray) -> np.ndarray:
        """Return colours of markers on a pale image, fainter for smaller values: [...] -> float [..., 4]."""
        fraction = self.fraction(values)
        colours = _brightened(fraction)
        colours[..., 3] = MIN_MARKER_OPACITY + (1 - MIN_MARKER_OPACITY) * np.sqrt(fraction)
        return colours

    def colour(self, value: float) -> Colour:
        """Return the opaque colour of one value."""
        return _to_bytes(self.opaque(np.array(value)))

    def marker_colour(self, value: float) -> Colour:
        """Return the marker colour of one value, opaque."""
        return _to_bytes(self.marker_colours(np.array(value)))


def _brightened(fraction: np.ndarray) -> np.ndarray:
    return np.asarray(matplotlib.colormaps[SEQUENTIAL](DARKEST + (1 - DARKEST) * fraction))


def _to_bytes(colour: np.ndarray) -> Colour:
    red, green, blue = (255 * colour[:3]).round().astype(int).tolist()
    return red, green, blue
