"""Plain data to pictures; canvas.py is the only place that draws.

`VIEWS` is the table of pictures by name. To add one: a file here, a line there, a test.
"""

from __future__ import annotations

from collections.abc import Callable

from detrscope.views.attention import draw_attention
from detrscope.views.canvas import Picture
from detrscope.views.contact_sheet import contact_sheet
from detrscope.views.curves import draw_curves
from detrscope.views.detections import draw_detections
from detrscope.views.part_curves import draw_part_curves
from detrscope.views.precision_recall import draw_precision_recall

VIEWS: dict[str, Callable[..., Picture]] = {
    "attention": draw_attention,
    "contact-sheet": contact_sheet,
    "curves": draw_curves,
    "detections": draw_detections,
    "part-curves": draw_part_curves,
    "precision-recall": draw_precision_recall,
}
