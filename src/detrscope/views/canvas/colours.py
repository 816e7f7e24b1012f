"""Colours: of classes, of lines, and of numbers."""

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
LINES = (4, 5, 2, 6, 0, 1)  # of the palette: what shows on white paper, the darkest first
AMOUNTS = "inferno"  # even in lightness: reads the same to the colour-blind and in print
DIFFERENCES = "PuOr"  # orange below zero, purple above: told apart with every common kind of colour blindness
DARKEST = 0.25  # of `AMOUNTS` laid over a picture: its black would read as shadow
FAINTEST = 0.3  # opacity of a mark for nothing
STRONGEST = 0.85  # opacity over a picture of what is strongest


def class_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each class name.

    The name alone picks the colour, so that a class looks the same in every picture; a class whose colour is
    already taken moves to the next free one as long as there are any. Give all classes of a model for colours
    that are stable in that case too.
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


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on `colour`."""
    red, green, blue = colour
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else WHITE


def line_colour(index: int) -> Colour:
    """Colour of the `index`-th line of a plot."""
    return PALETTE[LINES[index % len(LINES)]]


def line_style(index: int) -> dict[str, Any]:
    """Colour and dash of the `index`-th line of a plot: colours first, then other dashes."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": unit(line_colour(index)),
        "linestyle": dashes[index // len(LINES) % len(dashes)],
        "linewidth": 1.6,
    }


def unit(colour: Colour) -> tuple[float, float, float]:
    """The colour in 0..1, as matplotlib has it."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


@dataclass(frozen=True)
class Scale:
    """How numbers become colours. Below `low` and above `high` are the end colours.

    Attributes:
        low: the number of the darkest colour, or of the most orange one.
        high: the number of the brightest colour, or of the most purple one.
        label: what the numbers are, with their unit.
        differences: from orange over white at the middle to purple, in place of from dark to bright.
    """

    low: float
    high: float
    label: str = ""
    differences: bool = False

    @classmethod
    def amounts(cls, *values: np.ndarray, label: str = "") -> Scale:
        """From 0 to the greatest of some values."""
        return cls(0.0, max((float(v.max()) for v in values if v.size), default=0.0) or 1e-9, label)

    @classmethod
    def signed(cls, *values: np.ndarray, label: str = "") -> Scale:
        """As far below zero as above it."""
        most = max((float(np.abs(v).max()) for v in values if v.size), default=0.0) or 1e-9
        return cls(-most, most, label, differences=True)

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where on the scale, 0..1."""
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Opaque: float [..., 4]."""
        name = DIFFERENCES if self.differences else AMOUNTS
        return np.asarray(matplotlib.colormaps[name](self.place(values)))

    def colour(self, value: float) -> Colour:
        """Of one number."""
        return _whole(self.colours(np.array(value)))

    def ink(self, value: float) -> Colour:
        """Of one number, for a mark on a pale picture, opaque."""
        return _whole(self.inks(np.array(value)))

    def inks(self, values: np.ndarray) -> np.ndarray:
        """For marks on a pale picture: the fainter the less. Float [..., 4]."""
        place = self.place(values)
        colours = np.asarray(matplotlib.colormaps[AMOUNTS](DARKEST + (1 - DARKEST) * place))
        colours[..., 3] = FAINTEST + (1 - FAINTEST) * np.sqrt(place)
        return colours

    def veil(self, values: np.ndarray) -> np.ndarray:
        """To be laid over a picture: see-through where nothing is. Float [..., 4]."""
        place = self.place(values)
        if self.differences:
            strength = np.abs(2 * place - 1)
            colours = np.asarray(matplotlib.colormaps[DIFFERENCES](place))
        else:
            strength = place
            colours = np.asarray(matplotlib.colormaps[AMOUNTS](DARKEST + (1 - DARKEST) * place))
        colours[..., 3] = STRONGEST * strength * (2 - strength)
        return colours


def _whole(colour: np.ndarray) -> Colour:
    red, green, blue = (255 * colour[:3]).round().astype(int).tolist()
    return red, green, blue
