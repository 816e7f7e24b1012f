"""Whose attention is shown: a query of the decoder, or a token of the encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detrscope.core.trace_data import Kind, TraceData
from detrscope.views.options import (
    NotInTrace,
    ShownQuery,
    ViewOptions,
    layers_of,
    prediction_in_layer,
    shown_queries,
    site_of,
)


@dataclass(frozen=True)
class AttentionRow:
    """One row of one or several layers."""

    row: int
    name: str
    sites: tuple[tuple[int, str], ...]  # number and site of every layer to show
    point: tuple[float, float] | None  # of the token, pixels of the original
    instead: str = ""  # why it is a query where a point was chosen

    def boxes(self, trace: TraceData, layer: int) -> list[ShownQuery]:
        """What the query predicts in a layer; a token predicts nothing."""
        return [] if self.point is not None else prediction_in_layer(trace, self.row, layer)


def attention_row(
    trace: TraceData,
    choice: ViewOptions,
    every_layer: bool = False,
    fits: Callable[[Kind], bool] | None = None,
) -> AttentionRow:
    """Return the token at the chosen point, else the chosen query, else that of the best detection.

    Where the encoder cannot be asked, as there is none or not of the kind that is shown, it is the query.

    Args:
        trace: the look.
        choice: point or query.
        every_layer: all layers, not the chosen or last one.
        fits: whether attention of a kind can be shown; by default all that the model has.

    Raises:
        NotInTrace: there is no such attention.
        NothingFound: no point or query was chosen and no query scores high enough.
    """
    kind: Kind = "encoder.self" if choice.points else "decoder.cross"
    instead = ""
    if choice.points and not (fits(kind) if fits else trace.sites_of(kind)):
        kind = "decoder.cross"
        if fits is None or fits(kind):
            instead = "the encoder has no such attention to ask at the point: a query is shown in its place"
    if fits is not None and not fits(kind):
        raise NotInTrace(f"{trace.card.variant} has no deformable attention at {kind}")
    sites = layers_of(trace, kind, choice) if every_layer else [site_of(trace, kind, choice)]
    if choice.points and not instead:
        x, y = point = choice.points[0]
        which = f" of level {choice.from_level % len(trace.levels)}" if len(trace.levels) > 1 else ""
        row = trace.token_at(point, choice.from_level)
        return AttentionRow(row, f"token{which} at ({x:g}, {y:g})", tuple(sites), point)
    first = shown_queries(trace, choice)[0]
    return AttentionRow(first.query, f"{first.title} ({first.says})", tuple(sites), None, instead)
