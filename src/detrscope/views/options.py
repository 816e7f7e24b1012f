"""Options of a view: which queries, points, layer, head and level of a trace it shows."""

from __future__ import annotations

from dataclasses import dataclass

from detrscope.core.argument_check import check_field_arguments
from detrscope.core.attention_map import Merge, Selection
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TOKEN_KINDS, Kind, TraceData

KINDS: tuple[Kind, ...] = (*TOKEN_KINDS, "decoder.self", "decoder.cross")


class NoDetections(UserError):
    """No detection reaches the score threshold."""


class PointOutsideImage(UserError):
    """A point lies outside the image."""


class NotInTrace(UserError):
    """A view needs something that the trace does not have, such as deformable attention."""


@check_field_arguments
@dataclass(frozen=True)
class ViewOptions:
    """Queries, points, layer, head and level that a view shows; the view chooses unset options.

    Attributes:
        queries: query indices; by default those of the detections.
        points: x, y in pixels of the original image.
        layer: layer of the encoder or decoder, from the end where negative; None is the last, or all where a view shows
            several.
        head: head index; None merges the heads, or shows all where a view shows several.
        level: feature level; None is all levels.
        from_level: feature level of the token at a point; 0 is the finest.
        merge: how heads are merged.
        cells: show each token as an even cell instead of interpolating between them.
        threshold: least score of a detection.
        against: another trace of the same image to compare with.
    """

    queries: tuple[int, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    layer: int | None = None
    head: int | None = None
    level: int | None = None
    from_level: int = 0
    merge: Merge = "mean"
    cells: bool = False
    threshold: float = 0.5
    against: TraceData | None = None

    def check(self, trace: TraceData) -> None:
        """Refuse indices that this trace does not have, whatever the view.

        Raises:
            UserError: no such query, point, layer, head or level.
        """
        if self.head is not None and self.merge != DEFAULT_OPTIONS.merge:
            raise UserError(
                f"merge {self.merge}: has no effect on one head ({self.head}); leave one of them out"
            )
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold {self.threshold}: expected a score between 0 and 1")
        for query in self.queries:
            _check_index("query", query, trace.queries, negative=False)
        x0, y0, x1, y1 = trace.geometry.crop_xyxy
        for x, y in self.points:
            if not (x0 <= x <= x1 and y0 <= y <= y1):
                raise PointOutsideImage(
                    f"point {x:g},{y:g}: is not on the image; expected x {x0:g} to {x1:g} and y {y0:g} to {y1:g}"
                )
        _check_index("layer", self.layer, max(map(trace.layers, KINDS)))
        if trace.records:
            _check_index("head", self.head, max(r.shape[0] for r in trace.records.values()))
        _check_index("level", self.level, len(trace.levels))
        _check_index("from_level", self.from_level, len(trace.levels), "level")

    def level_of(self, trace: TraceData) -> int | None:
        """Return the index of the chosen level from 0; None is all levels."""
        return None if self.level is None else self.level % len(trace.levels)

    def selection(
        self, site: str, rows: tuple[int, ...] = (), point: tuple[float, float] | None = None
    ) -> Selection:
        """Return the selection of some rows of a site, with these heads and levels."""
        return Selection(site, rows, self.head, self.merge, self.level, point)


DEFAULT_OPTIONS = ViewOptions()


def counted(count: int, noun: str) -> str:
    """Return a count with the indices it allows, such as `3 layers of decoder.cross, 0 to 2`."""
    first, _, rest = noun.partition(" ")
    plural = f"{first[:-1]}ies" if first.endswith("ry") else f"{first}s"
    return f"one {noun}, 0" if count == 1 else f"{count} {f'{plural} {rest}'.strip()}, 0 to {count - 1}"


def _check_index(name: str, index: int | None, count: int, noun: str = "", negative: bool = True) -> None:
    if index is not None and not (-count if negative else 0) <= index < count:
        raise UserError(f"{name} {index}: this trace has {counted(count, noun or name)}")
