"""What every drawing is: something with pixels and a figure that can be saved and shown."""

from __future__ import annotations

import importlib
import io
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from detrscope.console import atomic_write
from detrscope.core.errors import UserError, nearest
from detrscope.views.canvas.fonts import letter

DPI = 100  # of every figure: a size in pixels divided by this is its size in inches
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")


class Drawing(ABC):
    """Something drawn: shown in a notebook as it is, saved as PNG, JPEG, WebP, SVG or PDF."""

    @abstractmethod
    def figure(self) -> Figure:
        """The picture as a matplotlib figure, for vector formats and for changing details by hand."""

    @abstractmethod
    def pixels(self) -> np.ndarray:
        """The picture as uint8 [H, W, 3]."""

    def save(self, path: str | Path) -> Path:
        """Write the picture, whole or not at all; the ending of the name is the format.

        Raises:
            UserError: an ending that is not a picture format.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in ENDINGS:
            raise UserError(f"{path}: cannot save a picture as '{ending}'; {nearest(ending, ENDINGS)}")
        with atomic_write(path) as temporary:
            if ending in (".svg", ".pdf"):
                # Without a date equal pictures are equal files; publishers want TrueType fonts, and text as text.
                with rc_context({"pdf.fonttype": 42}):
                    figure = self.figure()
                    letter(figure)
                    figure.savefig(temporary, format=ending[1:], metadata={_DATE_KEY[ending]: None})
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
