"""The only place that draws: colours, type, pixels with boxes, figures with axes, and how they are saved."""

from __future__ import annotations

import importlib
import io
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from detrscope.console import written_whole
from detrscope.core.errors import UserError, nearest

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
DPI = 100  # of every figure: a size in pixels divided by this is its size in inches
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")


def class_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each class name.

    The name alone picks the colour, so that a class looks the same in every picture; a class whose colour is
    already taken moves to the next free one as long as there are any. Give all classes of a model for colours
    that are stable in that case too.
    """
    colours: dict[str, Colour] = {}
    taken: set[int] = set()
    for name in sorted(set(names)):
        slot = zlib.crc32(name.encode()) % len(PALETTE)
        while slot in taken and len(taken) < len(PALETTE):
            slot = (slot + 1) % len(PALETTE)
        taken.add(slot)
        colours[name] = PALETTE[slot]
    return colours


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on `colour`."""
    red, green, blue = colour
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else WHITE


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The one typeface, `size` pixels high: the DejaVu Sans that matplotlib brings along."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of one line of text on its plate."""
    return round(font(size).getlength(text)) + 2 * (size // 4), size + 2 * (size // 4)


class Picture:
    """Something drawn: shown in a notebook as it is, saved as PNG, JPEG, WebP, SVG or PDF."""

    def figure(self) -> Figure:
        """The picture as a matplotlib figure, for vector formats and for changing details by hand."""
        raise NotImplementedError

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [H, W, 3]."""
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Write the picture, whole or not at all; the ending of the name is the format.

        Raises:
            UserError: an ending that is not a picture format.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in ENDINGS:
            raise UserError(f"{path}: cannot save a picture as '{ending}'; {nearest(ending, ENDINGS)}")
        with written_whole(path) as temporary:
            if ending in (".svg", ".pdf"):
                # Without a date equal pictures are equal files.
                self.figure().savefig(temporary, format=ending[1:], metadata={_DATE_KEY[ending]: None})
            else:
                Image.fromarray(self.pixels()).save(temporary, **_QUALITY.get(ending, {}))
        return path

    def show(self) -> None:
        """Show the picture: inline in a notebook, else in the system's viewer."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        if shell is not None and "IPKernelApp" in shell.config:
            importlib.import_module("IPython.display").display(self)
        else:
            Image.fromarray(self.pixels()).show()

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.pixels()).save(buffer, format="PNG")
        return buffer.getvalue()


_DATE_KEY = {".svg": "Date", ".pdf": "CreationDate"}
_QUALITY: dict[str, dict[str, Any]] = {e: {"quality": 92} for e in (".jpg", ".jpeg", ".webp")}


@dataclass(frozen=True)
class Box:
    """A rectangle's outline, drawn inwards from its edge."""

    xyxy: tuple[float, float, float, float]  # pixels
    colour: Colour
    width: int


@dataclass(frozen=True)
class Label:
    """A line of text on a plate; no plate where `colour` is None."""

    text: str
    xy: tuple[float, float]  # left and top of the plate in pixels
    size: int  # height of the type in pixels
    colour: Colour | None = None
    ink: Colour = BLACK


@dataclass(frozen=True)
class Scene(Picture):
    """Pixels with boxes and labels: painted pixel by pixel, or as vectors over the image in SVG and PDF."""

    background: np.ndarray  # uint8 [H, W, 3]
    boxes: Sequence[Box] = field(default=())
    labels: Sequence[Label] = field(default=())

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [H, W, 3]."""
        image = Image.fromarray(self.background)
        draw = ImageDraw.Draw(image)
        for box in self.boxes:
            x0, y0, x1, y1 = _whole_pixels(box)
            width = min(box.width, (min(x1 - x0, y1 - y0) + 1) // 2)  # Pillow goes outside with more
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=box.colour, width=width)
        for label in self.labels:
            (x, y), (width, height) = label.xy, text_size(label.text, label.size)
            x, y = round(x), round(y)
            if label.colour is not None:
                draw.rectangle((x, y, x + width - 1, y + height - 1), fill=label.colour)
            middle = (x + label.size // 4, y + height // 2)
            draw.text(middle, label.text, fill=label.ink, font=font(label.size), anchor="lm")
        return np.asarray(image)

    def figure(self) -> Figure:
        """The picture as a matplotlib figure whose data coordinates are its pixels."""
        height, width = self.background.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(self.background, extent=(0, width, height, 0), interpolation="none")
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        points = 72 / DPI  # of one pixel
        for box in self.boxes:
            x0, y0, x1, y1 = _whole_pixels(box)
            inset, size = box.width / 2, (x1 - x0 - box.width, y1 - y0 - box.width)
            edge, line = _unit(box.colour), box.width * points
            axes.add_patch(
                Rectangle((x0 + inset, y0 + inset), *size, fill=False, edgecolor=edge, linewidth=line)
            )
        for label in self.labels:
            (x, y), (w, h) = label.xy, text_size(label.text, label.size)
            if label.colour is not None:
                axes.add_patch(Rectangle((x, y), w, h, facecolor=_unit(label.colour), edgecolor="none"))
            axes.text(
                x + label.size // 4,
                y + h / 2,
                label.text,
                color=_unit(label.ink),
                fontsize=label.size * points,
                va="center_baseline",
                parse_math=False,
            )
        return figure


class Plot(Picture):
    """A figure with axes in the house style, `width` x `height` pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")

    def grid(self, rows: int, columns: int) -> list[Axes]:
        """Axes in reading order, with light grids and without boxes around them."""
        axes = list(self._figure.subplots(rows, columns, squeeze=False).flat)
        for ax in axes:
            ax.grid(True, color="0.9", linewidth=0.8)
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=9)
        return axes

    def figure(self) -> Figure:
        """The matplotlib figure."""
        return self._figure

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [H, W, 3]."""
        canvas = FigureCanvasAgg(self._figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def line_style(index: int) -> dict[str, Any]:
    """Colour and dash of the `index`-th line of a plot: colours first, then other dashes."""
    dashes = ("-", "--", ":", "-.")
    colour = _unit(PALETTE[_LINES[index % len(_LINES)]])
    return {"color": colour, "linestyle": dashes[index // len(_LINES) % len(dashes)], "linewidth": 1.6}


_LINES = (4, 5, 2, 6, 0, 1)  # of the palette: what shows on white paper, the darkest first


def _unit(colour: Colour) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """The box on the pixel grid, never thinner than its own outline."""
    x0, y0, x1, y1 = (round(value) for value in box.xyxy)
    return x0, y0, max(x1, x0 + box.width), max(y1, y0 + box.width)
