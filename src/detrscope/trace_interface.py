"""`Trace`: one interface over the recorded data (core), the maps it gives (lens) and their figures (views)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from html import escape
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, overload

from detrscope.core.argument_check import check_arguments_of, check_method_arguments
from detrscope.core.attention_map import AttentionMap, QueryAttention
from detrscope.core.html import html_table
from detrscope.core.safe_text import escape_text
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_file import load_trace, save_trace
from detrscope.core.trace_summary import describe_trace
from detrscope.display import Displayed, detections_table
from detrscope.lens import incoming_attention, maps, relevance, rollout

if TYPE_CHECKING:
    from detrscope.views.canvas import Drawing, PixelFigure
    from detrscope.views.options import ViewOptions

P = ParamSpec("P")


@check_method_arguments
class _DrawnMap(Displayed):
    """Drawing of a map over its image, with its numbers."""

    def draw(self: Any) -> Drawing:
        """Return the map drawn over the image."""
        from detrscope.views.attention import draw_attention

        return draw_attention(self)

    def _repr_html_(self: Any) -> str:
        x, y = self.peak()
        grid = " + ".join(f"{part.shape[0]} x {part.shape[1]}" for part in getattr(self, "parts", ()))
        rows = [
            ("attention", f"{grid} tokens" if grid else f"{len(self.values)} queries"),
            ("sum of all weights", self.mass),
            ("greatest weight", float(self.values.max())),
            ("its place, in pixels", f"x {x:.0f}, y {y:.0f}"),
        ]
        return f"{self.draw().to_html(self.caption)}{html_table((), rows)}"


@check_method_arguments
@dataclass(frozen=True, repr=False)
class DisplayedMap(_DrawnMap, AttentionMap):
    """An `AttentionMap` with `show` and `save`."""


@check_method_arguments
@dataclass(frozen=True, repr=False)
class DisplayedQueryAttention(_DrawnMap, QueryAttention):
    """A `QueryAttention` with `show` and `save`."""


def displayable_map(attention: AttentionMap | QueryAttention) -> DisplayedMap | DisplayedQueryAttention:
    """Return the map with `show` and `save`."""
    kind = DisplayedMap if isinstance(attention, AttentionMap) else DisplayedQueryAttention
    return kind(**{f.name: getattr(attention, f.name) for f in fields(attention)})


@overload
def _method(
    function: Callable[Concatenate[TraceData, P], AttentionMap],
) -> Callable[Concatenate[TraceData, P], DisplayedMap]: ...


@overload
def _method(
    function: Callable[Concatenate[TraceData, P], AttentionMap | QueryAttention],
) -> Callable[Concatenate[TraceData, P], DisplayedMap | DisplayedQueryAttention]: ...


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the lens as a method whose maps can be shown; arguments and docstring are the function's."""

    @wraps(function)
    def method(self: TraceData, *args: Any, **kwargs: Any) -> DisplayedMap | DisplayedQueryAttention:
        return displayable_map(function(self, *args, **kwargs))

    trace, *others = signature(function).parameters.values()
    parameters = [trace.replace(name="self"), *others]
    method.__signature__ = signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
    return method


@check_method_arguments
@dataclass(frozen=True, eq=False, repr=False)
class Trace(TraceData):
    """Everything recorded in one forward pass over one image. Made by `Detector.trace`; loads without the model.

    The data are the attributes of `TraceData`. Maps are computed from the records on demand.
    """

    @classmethod
    def of(cls, data: TraceData) -> Self:
        """Return recorded data with this interface."""
        return cls(**{f.name: getattr(data, f.name) for f in fields(TraceData)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote; the model is not needed.

        Raises:
            UserError: missing, truncated, not a trace, or of an unknown format version.
        """
        return cls.of(load_trace(path))

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write everything to one file, atomically.

        Args:
            path: such as `photo.trace`.
            half: store records, features and gradients in float16: half the size, weights right to about 1%.

        Raises:
            UserError: the file cannot be written.
        """
        return save_trace(self, path, half=half)

    cross_attention = _method(maps.map_of_cross_attention)
    self_attention = _method(maps.map_of_self_attention)
    incoming_attention = _method(incoming_attention.incoming_from_tokens)
    rollout = _method(rollout.rollout)
    relevance = _method(relevance.relevance)

    def draw(self, view: str = "per-query", options: ViewOptions | None = None) -> PixelFigure:
        """Draw a figure.

        Args:
            view: a name of `detrscope.views.VIEWS`.
            options: queries, layer, head ... to show; the view chooses unset options.

        Raises:
            UserError: an unknown view, options that do not fit this trace, or a trace without what the view shows.
        """
        from detrscope.views import draw
        from detrscope.views.options import ViewOptions

        types = {"TraceData": TraceData, "ViewOptions": ViewOptions}
        return check_arguments_of(draw, name="Trace.draw", names=lambda: types)(self, view, options)

    def show(self, view: str = "per-query", options: ViewOptions | None = None) -> None:
        """Show a figure: inline in a notebook, else in the system's image viewer; arguments as for `draw`."""
        self.draw(view, options).show()

    def describe(self) -> str:
        """Return the shapes of everything, step by step, as text."""
        return describe_trace(self)

    def _repr_html_(self) -> str:
        """Return the detections drawn, or the best query where nothing scores enough, a table, and all shapes."""
        from detrscope.views.options import DEFAULT_OPTIONS, NoDetections, ViewOptions

        try:
            picture = self.draw("detections").to_html(repr(self))
        except NoDetections:
            best = int(self.scores().amax(-1).argmax())
            picture = self.draw("detections", ViewOptions(queries=(best,))).to_html(repr(self))
        table = detections_table(self.detections(DEFAULT_OPTIONS.threshold))
        shapes = f"<pre>{escape(escape_text(self.describe(), keep=chr(10)))}</pre>"
        return f"{picture}{table}<details><summary>shapes</summary>{shapes}</details>"
