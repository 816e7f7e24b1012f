"""Base class of everything drawn: pixels and a matplotlib figure that can be saved and shown."""

from __future__ import annotations

import importlib
import io
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.files import atomic_write
from detrscope.core.html import html_image
from detrscope.views.canvas.fonts import set_fonts

DPI = 100  # of every figure: a size in pixels divided by this is its size in inches
SHOWN_SIDE = 2400  # pixels: larger drawings are reduced where a notebook shows them
HTML_SIDE = 1000  # pixels of an image beside a table
HTML_BYTES = 300_000  # of a PNG; above, it is a JPEG
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")


class Drawing(ABC):
    """Something drawn: displayed inline in a notebook, saved as PNG, JPEG, WebP, SVG or PDF."""

    @abstractmethod
    def figure(self) -> Figure:
        """Return the matplotlib figure, for vector formats and for changing details by hand."""

    @abstractmethod
    def pixels(self) -> np.ndarray:
        """Return the pixels as uint8 [H, W, 3]."""

    def save(self, path: str | Path) -> Path:
        """Write the image atomically; the suffix of the path gives the format.

        Raises:
            UserError: a suffix that is not an image format.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in ENDINGS:
            raise UserError(f"{path}: cannot save an image as '{ending}'; {suggest_nearest(ending, ENDINGS)}")
        with atomic_write(path) as temporary:
            if ending in (".svg", ".pdf"):
                # Without a date equal figures are equal files; publishers want TrueType fonts, and text as text.
                with rc_context({"pdf.fonttype": 42}):
                    figure = self.figure()
                    set_fonts(figure)
                    figure.savefig(temporary, format=ending[1:], metadata={_DATE_KEY[ending]: None})
            else:
                Image.fromarray(self.pixels()).save(temporary, **_QUALITY.get(ending, {}))
        return path

    def show(self) -> None:
        """Show the image: inline in a notebook, else in the system's image viewer."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        if shell is not None and "IPKernelApp" in shell.config:
            importlib.import_module("IPython.display").display(self)
        else:
            Image.fromarray(self.pixels()).show()

    def to_html(self, alt: str = "") -> str:
        """Return the image as HTML of bounded size, for notebooks; `alt` describes it in words."""
        return html_of_pixels(self.pixels(), alt)

    def _repr_png_(self) -> bytes:
        return _encoded(_within(Image.fromarray(self.pixels()), SHOWN_SIDE), "png")


def html_of_pixels(pixels: np.ndarray, alt: str = "") -> str:
    """Return uint8 [H, W, 3] as an HTML image: at most `HTML_SIDE` pixels a side, JPEG where PNG would be large."""
    image = _within(Image.fromarray(pixels), HTML_SIDE)
    data, kind = _encoded(image, "png"), "png"
    if len(data) > HTML_BYTES:
        data, kind = _encoded(image, "jpeg"), "jpeg"
    return html_image(data, kind, alt)


def html_of_file(path: Path, alt: str = "") -> str:
    """Return an image file that was written here as HTML of bounded size; empty for svg and pdf."""
    if path.suffix.lower() in _DATE_KEY:
        return ""
    with Image.open(path) as image:
        return html_of_pixels(np.asarray(image.convert("RGB")), alt)


def _within(image: Image.Image, side: int) -> Image.Image:
    """Return an image whose longer side has at most so many pixels."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **_QUALITY.get(f".{kind}", {}))
    return buffer.getvalue()


def rendered(figure: Figure) -> np.ndarray:
    """Return the pixels of a matplotlib figure: uint8 [H, W, 3]."""
    set_fonts(figure)
    canvas: Any = FigureCanvasAgg(figure)  # without type annotations
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def resize_drawing(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return an image at another size: uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def enlarged(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a map at another size, linear between cell centres: float [H, W] -> float [height, width]."""
    plane = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))


_DATE_KEY = {".svg": "Date", ".pdf": "CreationDate"}
_QUALITY: dict[str, dict[str, Any]] = {e: {"quality": 92} for e in (".jpg", ".jpeg", ".webp")}
