"""`Trace`: one interface over the recorded data (core), the maps it gives (lens) and their figures (views)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from detrscope.core.argument_check import checked_arguments, checked_methods
from detrscope.core.attention_map import AttentionMap, Merge, QueryAttention
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_file import load_trace, save_trace
from detrscope.core.trace_summary import describe
from detrscope.lens import incoming_attention, maps, relevance, rollout

if TYPE_CHECKING:
    from detrscope.views.canvas import Drawing, PixelFigure
    from detrscope.views.options import ViewOptions


@checked_methods
class _Displayed:
    """Display methods of a map: a notebook shows it inline. Drawing is imported when something is drawn."""

    def draw(self: Any) -> Drawing:
        """Return the map drawn over the image."""
        from detrscope.views.attention import draw_attention

        return draw_attention(self)

    def show(self) -> None:
        """Show the map: inline in a notebook, else in the system's image viewer."""
        self.draw().show()

    def save(self, path: str | Path) -> Path:
        """Write the map as an image, atomically; the suffix (png, jpg, webp, svg, pdf) gives the format.

        Raises:
            UserError: a suffix that is not an image format.
        """
        return self.draw().save(path)

    def _repr_png_(self) -> bytes:
        return self.draw()._repr_png_()


@checked_methods
@dataclass(frozen=True, repr=False)
class DisplayedMap(_Displayed, AttentionMap):
    """An `AttentionMap` with `show` and `save`."""


@checked_methods
@dataclass(frozen=True)
class DisplayedQueryAttention(_Displayed, QueryAttention):
    """A `QueryAttention` with `show` and `save`."""


def displayed(attention: AttentionMap | QueryAttention) -> DisplayedMap | DisplayedQueryAttention:
    """Return the map with `show` and `save`."""
    values = {f.name: getattr(attention, f.name) for f in fields(attention)}
    return (
        DisplayedMap(**values) if isinstance(attention, AttentionMap) else DisplayedQueryAttention(**values)
    )


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class Trace(TraceData):
    """Everything recorded in one forward pass over one image. Made by `Detector.trace`; loads without the model.

    The data are the attributes of `TraceData`. Maps are computed from the records when they are asked for.
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

    def cross_attention(
        self,
        query: int | Sequence[int] | None = None,
        layer: int = -1,
        head: int | None = None,
        level: int | None = None,
        merge: Merge = "mean",
    ) -> DisplayedMap:
        """Return the decoder cross-attention of a query over the image.

        Args:
            query: query index; several are averaged; None averages all queries.
            layer: decoder layer, the last by default.
            head: head index; None merges the heads.
            level: feature level; None shows all levels.
            merge: how heads are merged.

        Raises:
            UserError: no such query, layer, head or level, or the site was not recorded.
        """
        return _map(maps.cross_attention(self, query, layer, head, level, merge))

    def self_attention(
        self,
        point: tuple[float, float] | None = None,
        query: int | None = None,
        layer: int = -1,
        head: int | None = None,
        level: int | None = None,
        merge: Merge = "mean",
        from_level: int = 0,
    ) -> DisplayedMap | DisplayedQueryAttention:
        """Return the self-attention of an image token (encoder) or of a query (decoder).

        Args:
            point: x, y in pixels of the original image; selects the encoder token there.
            query: query index, instead of `point`.
            layer: encoder layer (`point`) or decoder layer (`query`), the last by default.
            head: head index; None merges the heads.
            level: feature level; None shows all levels.
            merge: how heads are merged.
            from_level: feature level of the token at `point`; 0 is the finest.

        Raises:
            UserError: not exactly one of `point` and `query`, a point outside the image, no such layer, head or level,
                or the site was not recorded.
        """
        return displayed(maps.self_attention(self, point, query, layer, head, level, merge, from_level))

    def incoming_attention(
        self,
        point: tuple[float, float],
        layer: int = -1,
        head: int | None = None,
        merge: Merge = "mean",
        level: int = 0,
        from_level: int | None = None,
    ) -> DisplayedMap:
        """Return how much every encoder token attends to the token at a point: a column of the attention matrix.

        Args:
            point: x, y in pixels of the original image.
            layer: encoder layer, the last by default.
            head: head index; None merges the heads.
            merge: how heads are merged.
            level: feature level of the token at `point`; 0 is the finest.
            from_level: feature level of the attending tokens; None shows all levels.

        Raises:
            UserError: a point outside the image, no such layer, head or level, or the site was not recorded.
        """
        return _map(
            incoming_attention.incoming_from_tokens(self, point, layer, head, merge, level, from_level)
        )

    def rollout(self, query: int | None = None, point: tuple[float, float] | None = None) -> DisplayedMap:
        """Return attention rollout through all layers (Abnar and Zuidema 2020, arXiv:2005.00928, section 3).

        Args:
            query: query index.
            point: x, y in pixels of the original image, instead of `query`; selects the encoder token there.

        Raises:
            UserError: not exactly one of `query` and `point`, no such query or point, or a site was not recorded.
        """
        return _map(rollout.rollout(self, query, point))

    def relevance(self, query: int) -> DisplayedMap:
        """Return gradient-weighted relevance through all layers (Chefer et al. 2021, arXiv:2103.15679).

        Args:
            query: query index; the trace must have been made with `explain=[query]`.

        Raises:
            UserError: the trace has no gradients of this query, or a site was not recorded.
        """
        return _map(relevance.relevance(self, query))

    def draw(self, view: str = "per-query", options: ViewOptions | None = None) -> PixelFigure:
        """Draw a figure.

        Args:
            view: a name of `detrscope.views.VIEWS`.
            options: queries, layer, head ... to show; what is left out the view chooses.

        Raises:
            UserError: an unknown view, options that do not fit this trace, or a trace without what the view shows.
        """
        from detrscope.views import draw
        from detrscope.views.options import ViewOptions

        types = {"TraceData": TraceData, "ViewOptions": ViewOptions}
        return checked_arguments(draw, name="Trace.draw", names=lambda: types)(self, view, options)

    def show(self, view: str = "per-query", options: ViewOptions | None = None) -> None:
        """Show a figure: inline in a notebook, else in the system's image viewer; arguments as for `draw`."""
        self.draw(view, options).show()

    def describe(self) -> str:
        """Return the shapes of everything, step by step, as text."""
        return describe(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.describe())}</pre>"


def _map(attention: AttentionMap) -> DisplayedMap:
    shown = displayed(attention)
    assert isinstance(shown, DisplayedMap)
    return shown
