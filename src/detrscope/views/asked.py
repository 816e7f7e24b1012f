"""Whose attention is shown: a query of the decoder, or a token of the encoder."""

from __future__ import annotations

from dataclasses import dataclass

from detrscope.core.trace import Trace
from detrscope.core.trace_data import Kind
from detrscope.views.choice import Choice, Kept, kept, layers_of, predicted_at, site_of


@dataclass(frozen=True)
class Asked:
    """One row of one or several layers."""

    row: int
    name: str
    sites: tuple[tuple[int, str], ...]  # number and site of every layer to show
    point: tuple[float, float] | None  # of the token, pixels of the original

    def boxes(self, trace: Trace, layer: int) -> list[Kept]:
        """What the query predicts in a layer; a token predicts nothing."""
        return [] if self.point is not None else predicted_at(trace, self.row, layer)


def kind_asked(choice: Choice) -> Kind:
    """A point asks the encoder, a query the decoder."""
    return "encoder.self" if choice.points else "decoder.cross"


def asked(trace: Trace, choice: Choice, every_layer: bool = False) -> Asked:
    """The token at the chosen point, else the chosen query, else that of the best detection.

    Raises:
        NotInTrace: there is no such attention.
        UserError: nothing was found.
    """
    kind = kind_asked(choice)
    sites = layers_of(trace, kind, choice) if every_layer else [site_of(trace, kind, choice)]
    if choice.points:
        x, y = point = choice.points[0]
        which = f" of level {choice.from_level % len(trace.levels)}" if len(trace.levels) > 1 else ""
        row = trace.token_at(point, choice.from_level)
        return Asked(row, f"token{which} at ({x:g}, {y:g})", tuple(sites), point)
    first = kept(trace, choice)[0]
    return Asked(first.query, f"{first.title} ({first.says})", tuple(sites), None)
