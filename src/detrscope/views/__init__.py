"""Views: figures of traces and results, drawn through `canvas`.

`VIEWS` lists the views of a trace by name; views read traces, never models. To add a view: a file here with a data step
and a drawing step, a line there, a test. Figures of other data (`training_curves`, `part_curves`, `precision_recall`,
`contact_sheet`, `faithfulness`, the frames of `timelapse`) are called by the commands that have the data.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from detrscope.core.errors import UserError, suggest_nearest

if TYPE_CHECKING:
    from detrscope.core.trace_data import TraceData
    from detrscope.views.canvas import PixelFigure
    from detrscope.views.options import ViewOptions
    from detrscope.views.view_data import ViewData

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
    "ground_truth",
]
QUERY: tuple[Part, ...] = ("queries", "threshold")
QUERY_MAP: tuple[Part, ...] = (*QUERY, "layer", "head", "level", "merge", "cells")
POINT_MAP: tuple[Part, ...] = ("points", "from_level", *QUERY_MAP)
SAMPLES: tuple[Part, ...] = ("points", "from_level", *QUERY, "layer", "head", "level")


@dataclass(frozen=True)
class View:
    """A line of `VIEWS`; its module is imported when it is drawn, so that `--help` stays fast.

    Attributes:
        module: module of `detrscope.views`.
        name: stem of its functions in it: `NAME_data`, from a trace and options to a `ViewData`, and `draw_NAME`, from
            that to a figure.
        shows: description in a few words.
        uses: options that make a difference.
        one_row: whether it shows the row of a query or that of a point, and not both.
        uses_gradients: whether it shows more of a trace that has the gradients of the queries shown (`explain=`).
    """

    module: str
    name: str
    shows: str
    uses: tuple[Part, ...]
    one_row: bool = False
    uses_gradients: bool = False

    def data(self, trace: TraceData, options: ViewOptions) -> ViewData:
        """Compute the numbers that the view shows.

        Raises:
            UserError: the options do not fit this trace; as a `NotInTrace` where the trace has nothing to show.
        """
        return cast("ViewData", self._function(f"{self.name}_data")(trace, options))

    def draw(self, data: ViewData) -> PixelFigure:
        """Draw these numbers; the figure keeps them as `numbers`."""
        figure = cast("PixelFigure", self._function(f"draw_{self.name}")(data))
        figure.numbers = data
        return figure

    def __call__(self, trace: TraceData, options: ViewOptions) -> PixelFigure:
        """Compute and draw; raises as `data` does."""
        return self.draw(self.data(trace, options))

    def _function(self, name: str) -> Callable[..., Any]:
        return cast(
            "Callable[..., Any]", getattr(importlib.import_module(f"detrscope.views.{self.module}"), name)
        )


VIEWS: dict[str, View] = {
    "detections": View(
        "detections", "detections", "boxes, classes, scores, queries", (*QUERY, "ground_truth")
    ),
    "per-query": View("cross_attention", "per_query", "map and box of each query", QUERY_MAP),
    "mean": View("cross_attention", "mean", "the mean map of all queries", QUERY_MAP),
    "encoder": View("encoder", "encoder", "encoder self-attention of points", POINT_MAP),
    "heads": View("heads", "heads", "every head and layer of a query or point", POINT_MAP, one_row=True),
    "by-layer": View("heads", "by_layer", "one query through the decoder layers", QUERY_MAP),
    "points": View("points", "point_levels", "sampling points by level", POINT_MAP, one_row=True),
    "points-heads": View("points", "point_heads", "sampling points by head", SAMPLES, one_row=True),
    "points-layers": View("points", "point_layers", "sampling points by layer", SAMPLES, one_row=True),
    "relevance": View(
        "relevance",
        "relevance",
        "attention, rollout and relevance of a prediction",
        QUERY_MAP,
        uses_gradients=True,
    ),
    "incoming": View("incoming", "incoming", "attention received by a point", POINT_MAP),
    "query-self-attention": View(
        "query_self_attention",
        "query_self_attention",
        "how queries attend to each other",
        (*QUERY, "layer", "head", "merge"),
    ),
    "features": View("features", "features", "the backbone's strongest channels", ()),
    "channels": View("features", "channels", "all channels of one convolution", ()),
    "metrics": View("metrics", "metrics", "attention metrics over the layers", (*QUERY, "ground_truth")),
    "changes": View("changes", "changes", "detections before and after edits", ("against", "threshold")),
    "compare": View("compare", "comparison", "two traces and their difference", ("against", *QUERY_MAP)),
}


def view_of(name: str) -> View:
    """Return a view by name.

    Raises:
        UserError: no such view; the nearest name, or all of them, are given.
    """
    if name not in VIEWS:
        raise UserError(f"view '{name}' is not known; {suggest_nearest(name, VIEWS)}")
    return VIEWS[name]


def draw(trace: TraceData, view: str = "per-query", options: ViewOptions | None = None) -> PixelFigure:
    """Draw a figure of a trace.

    Args:
        trace: a trace, just made or loaded.
        view: a name of `VIEWS`.
        options: queries, layer, head ... to show; the view chooses unset options.

    Raises:
        UserError: an unknown view, options that do not fit this trace, or a trace without what the view shows.
    """
    from detrscope.views.options import DEFAULT_OPTIONS

    shown, options = view_of(view), options or DEFAULT_OPTIONS
    options.check(trace)
    return shown(trace, options)
