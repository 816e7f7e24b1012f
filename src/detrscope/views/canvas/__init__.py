"""Drawing primitives of all views, on top of matplotlib and Pillow.

`ImageOverlay`: an image with boxes and labels. `PixelFigure`: panels with absolute pixel layout. `Plot`: charts.
All are a `Drawing`: saved as PNG, JPEG, WebP, SVG or PDF, displayed inline in a notebook.
"""

from __future__ import annotations

from detrscope.views.canvas.colours import (
    BLACK,
    PALETTE,
    WHITE,
    Colour,
    Scale,
    class_colours,
    line_colour,
    line_style,
    text_colour_on,
)
from detrscope.views.canvas.drawing import DPI, ENDINGS, Drawing, resize_drawing
from detrscope.views.canvas.figure import PixelFigure, header_and_footer
from detrscope.views.canvas.fonts import drawable_class_label
from detrscope.views.canvas.heatmap import with_heatmap
from detrscope.views.canvas.image_overlay import Box, ImageOverlay, Label
from detrscope.views.canvas.mask_overlay import with_masks
from detrscope.views.canvas.panel import Panel
from detrscope.views.canvas.plot import Chart, Plot
from detrscope.views.canvas.text import shorten_to_width, text_size, wrapped

__all__ = [
    "BLACK",
    "DPI",
    "ENDINGS",
    "PALETTE",
    "WHITE",
    "Box",
    "Chart",
    "Colour",
    "Drawing",
    "ImageOverlay",
    "Label",
    "Panel",
    "PixelFigure",
    "Plot",
    "Scale",
    "class_colours",
    "drawable_class_label",
    "header_and_footer",
    "line_colour",
    "line_style",
    "resize_drawing",
    "shorten_to_width",
    "text_colour_on",
    "text_size",
    "with_heatmap",
    "with_masks",
    "wrapped",
]
