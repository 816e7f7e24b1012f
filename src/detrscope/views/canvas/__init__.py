"""The only place that draws; everything else in `views` says what to draw and where.

`Scene` is pixels with boxes and labels; `Sheet` is panels placed by the pixel; `Plot` is charts beside each other. All
are a `Picture`: saved as PNG, JPEG, WebP, SVG or PDF, shown in a notebook as they are.
"""

from __future__ import annotations

from detrscope.views.canvas.colours import (
    BLACK,
    PALETTE,
    WHITE,
    Colour,
    Scale,
    class_colours,
    ink_on,
    line_colour,
    line_style,
)
from detrscope.views.canvas.drawing import DPI, ENDINGS, Picture
from detrscope.views.canvas.figure import Sheet, strips
from detrscope.views.canvas.fonts import class_label
from detrscope.views.canvas.image_overlay import Box, Label, Scene, resized
from detrscope.views.canvas.panel import Panel
from detrscope.views.canvas.plot import Chart, Plot
from detrscope.views.canvas.text import shortened, text_size, wrapped

__all__ = [
    "BLACK",
    "DPI",
    "ENDINGS",
    "PALETTE",
    "WHITE",
    "Box",
    "Chart",
    "Colour",
    "Label",
    "Panel",
    "Picture",
    "Plot",
    "Scale",
    "Scene",
    "Sheet",
    "class_colours",
    "class_label",
    "ink_on",
    "line_colour",
    "line_style",
    "resized",
    "shortened",
    "strips",
    "text_size",
    "wrapped",
]
