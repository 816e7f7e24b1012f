"""Plain data to pictures; `canvas` is the only place that draws.

`VIEWS` is the table of what can be seen of a trace, by name: views read traces, never models. To add a picture: a file
here, a line there, a test. What shows other data (`curves`, `part_curves`, `precision_recall`, `contact_sheet`,
`faithfulness`, the frames of `timelapse`) is called by the workflow that has the data.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from detrscope.core.errors import UserError, nearest

if TYPE_CHECKING:
    from detrscope.core.trace_data import TraceData
    from detrscope.views.canvas import PixelFigure
    from detrscope.views.options import ViewOptions

Part = Literal[
    "queries",
    "points",
    "layer",
    "head",
    "level",
    "from_level",
    "merge",
    "cells",
    "threshold",
    "against",
    "truth",
]
QUERY: tuple[Part, ...] = ("queries", "threshold")
PLACE: tuple[Part, ...] = ("points", "from_level")
MAP: tuple[Part, ...] = ("layer", "head", "level", "merge", "cells")
ROW: tuple[Part, ...] = ("layer", "head", "merge")
POINT: tuple[Part, ...] = ("layer", "head", "level")


@dataclass(frozen=True)
class View:
    """One line of the table; the module is imported when something is drawn, so that `--help` is not slowed down.

    Attributes:
        module: of `detrscope.views`.
        function: in it, from a trace and a choice to a sheet.
        shows: in a few words.
        uses: what of a choice makes a difference.
        one: whether it shows the row of a query or that of a point, and not both.
        explains: whether it shows more of a trace that has the gradients of the queries shown (`explain=`).
    """

    module: str
    function: str
    shows: str
    uses: tuple[Part, ...]
    one: bool = False
    explains: bool = False

    def __call__(self, trace: TraceData, choice: ViewOptions) -> PixelFigure:
        """Draw it.

        Raises:
            UserError: the choice does not fit this trace; as a `NotInTrace` where the trace has nothing to show.
        """
        drawing = getattr(importlib.import_module(f"detrscope.views.{self.module}"), self.function)
        return cast("Callable[[TraceData, ViewOptions], PixelFigure]", drawing)(trace, choice)


VIEWS: dict[str, View] = {
    "detections": View(
        "detections", "draw_view_detections", "boxes, classes, scores, queries", (*QUERY, "truth")
    ),
    "columns": View("per_query", "draw_per_query", "for each detection its map and its box", (*QUERY, *MAP)),
    "merged": View("mean", "draw_mean", "the maps of all queries together", (*QUERY, *MAP)),
    "encoder": View("encoder", "draw_encoder", "where places of the picture look", (*PLACE, *QUERY, *MAP)),
    "heads": View(
        "heads", "draw_heads", "one query or place in every head and layer", (*PLACE, *QUERY, *MAP), one=True
    ),
    "journey": View("by_layer", "draw_by_layer", "one query through the layers", (*QUERY, *MAP)),
    "points": View("points", "draw_levels", "sampling points, by level", (*PLACE, *QUERY, *MAP), one=True),
    "points-heads": View(
        "points", "draw_point_heads", "sampling points, by head", (*PLACE, *QUERY, *POINT), one=True
    ),
    "points-layers": View(
        "points", "draw_point_layers", "sampling points, of all layers", (*PLACE, *QUERY, *POINT), one=True
    ),
    "relevance": View(
        "relevance", "draw_relevance", "what a prediction rests on", (*QUERY, *MAP), explains=True
    ),
    "onlookers": View("incoming", "draw_incoming", "who looks at a place", (*PLACE, *QUERY, *MAP)),
    "queries": View(
        "query_self_attention", "draw_query_self_attention", "queries looking at queries", (*QUERY, *ROW)
    ),
    "features": View("features", "draw_features", "the backbone's strongest channels", ()),
    "channels": View("features", "draw_channels", "all channels of one convolution", ()),
    "measures": View("metrics", "draw_metrics", "attention over the layers, in numbers", (*QUERY, "truth")),
    "compare": View(
        "compare", "draw_comparison", "two traces, and their difference", ("against", *QUERY, *MAP)
    ),
}


def view_of(name: str) -> View:
    """A line of the table.

    Raises:
        UserError: no view has this name; the nearest one, or all of them, are named.
    """
    if name not in VIEWS:
        raise UserError(f"view '{name}' is not known; {nearest(name, VIEWS)}")
    return VIEWS[name]


def draw(trace: TraceData, view: str = "columns", choice: ViewOptions | None = None) -> PixelFigure:
    """A picture of a trace.

    Args:
        trace: a look, just made or loaded.
        view: a name of `VIEWS`.
        choice: queries, layer, head ...; what is left out the view chooses itself.

    Raises:
        UserError: an unknown view, a choice that means nothing in this trace, or a trace without what the view shows.
    """
    from detrscope.views.options import DEFAULT_OPTIONS

    drawing, choice = view_of(view), choice or DEFAULT_OPTIONS
    choice.check(trace)
    return drawing(trace, choice)
