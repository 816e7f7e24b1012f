"""A trace: everything about one look at one image, its attention as maps, one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from detrscope.core.argument_check import checked_methods
from detrscope.core.attention_map import (
    AttentionMap,
    Merge,
    QueryAttention,
    Selection,
    merged_heads,
    parts_of,
)
from detrscope.core.drawable import Viewable
from detrscope.core.errors import UserError
from detrscope.core.records import DeformableRecord, exact
from detrscope.core.trace_data import TraceData


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class Trace(TraceData, Viewable):
    """One look at one image. Made by `Detector.trace`; saves to one file and loads without the model.

    What it holds are the attributes of `TraceData`. Maps are made of the records when they are asked for.
    """

    def cross_attention(
        self,
        query: int | Sequence[int] | None = None,
        layer: int = -1,
        head: int | None = None,
        level: int | None = None,
        merge: Merge = "mean",
    ) -> AttentionMap:
        """Where a query looks in the image.

        Args:
            query: its number; of several the mean; None is the mean over all of them.
            layer: decoder layer, the last by default.
            head: one head; None merges them.
            level: one map of the image; None is all of them.
            merge: how heads are merged.

        Raises:
            UserError: no such query, layer, head or level, or the site was not recorded.
        """
        site = self.site("decoder.cross", layer)
        chosen = self._chosen(query)
        name = ", ".join(self.query_name(q) for q in chosen) if len(chosen) <= 3 else f"{len(chosen)} queries"
        if query is None:
            name = f"mean of all {self.queries} queries"
        elif len(chosen) > 1:
            name = f"mean of {name}"
        return self.map_of_rows(Selection(site, chosen, head, merge, level), name)

    def self_attention(
        self,
        point: tuple[float, float] | None = None,
        query: int | None = None,
        layer: int = -1,
        head: int | None = None,
        level: int | None = None,
        merge: Merge = "mean",
        from_level: int = 0,
    ) -> AttentionMap | QueryAttention:
        """Where a token of the image looks in the image (encoder), or a query among the queries (decoder).

        Args:
            point: x, y of the original: the token there is asked.
            query: its number, in place of a point.
            layer: of the encoder (point) or the decoder (query), the last by default.
            head: one head; None merges them.
            level: one map of the image; None is all of them.
            merge: how heads are merged.
            from_level: of which map the token at `point` is; 0 is the finest.

        Raises:
            UserError: not one of point and query, a point outside, no such layer, head or level, or the site was not
                recorded.
        """
        if (point is None) == (query is None):
            raise UserError("self_attention: give point=(x, y) of the original image, or query=")
        if point is not None:
            self.check_index("level", from_level, len(self.levels))
            token = self.token_at(point, from_level)
            selection = Selection(self.site("encoder.self", layer), (token,), head, merge, level, point)
            where = f"token at ({point[0]:g}, {point[1]:g})"
            return self.map_of_rows(
                selection, where + (f" of level {from_level}" if len(self.levels) > 1 else "")
            )
        assert query is not None
        site = self.site("decoder.self", layer)
        self._chosen(query)
        rows = self._rows(site, (query,))
        self.check_index("head", head, rows.shape[0])
        values = merged_heads(rows, head, merge)[0]
        return QueryAttention(
            values=values,
            boxes_cxcywh=self.boxes_cxcywh[layer if len(self.boxes_cxcywh) > 1 else -1],
            geometry=self.geometry,
            image=self.image,
            selection=Selection(site, (query,), head, merge),
            caption=self._caption(
                site, self.query_name(query), head, merge, rows.shape[0], f"{len(values)} queries"
            )
            + f", weights sum to {float(values.sum()):.3f}",
        )

    def map_of_rows(self, selection: Selection, who: str) -> AttentionMap:
        """The map of rows of an attention site whose keys are tokens of the image.

        Args:
            selection: site, rows and how they are merged.
            who: what to call the rows in the caption.

        Raises:
            UserError: no such head or level, or the site was not recorded.
        """
        rows = self._rows(selection.site, selection.queries)  # [h, n, S]
        self.check_index("head", selection.head, rows.shape[0])
        row = merged_heads(rows, selection.head, selection.merge).mean(0)  # [S]
        return self.map_of_row(row, selection, who, heads=rows.shape[0])

    def map_of_row(
        self, row: Tensor, selection: Selection, who: str, heads: int | None = None
    ) -> AttentionMap:
        """Weights over all tokens [S] as a map, with its caption.

        Args:
            row: [S].
            selection: what it was made of.
            who: what to call it in the caption.
            heads: how many the site has; None for what was computed over heads and layers.

        Raises:
            UserError: no such level.
        """
        self.check_index("level", selection.level, len(self.levels))
        parts = parts_of(row, self.levels)
        ids = range(len(parts)) if selection.level is None else [selection.level % len(parts)]
        sizes = ", ".join(f"{self.levels[i].height}x{self.levels[i].width}" for i in ids)
        one = AttentionMap(
            parts=tuple(parts[i] for i in ids),
            level_ids=tuple(ids),
            geometry=self.geometry,
            image=self.image,
            selection=selection,
        )
        if heads is None:
            about = f"{self._model()}, {who}, {sizes} tokens"
        else:
            about = self._caption(
                selection.site, who, selection.head, selection.merge, heads, f"{sizes} tokens"
            )
        if selection.level is not None and len(self.levels) > 1:
            about += f" of level {ids[0]}"
        return replace(one, caption=f"{about}, weights sum to {one.mass:.3f}")

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.describe())}</pre>"

    def describe(self) -> str:
        """The shapes of everything, step by step, as text."""
        from detrscope.core.trace_summary import describe

        return describe(self)

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write everything to one file, whole or not at all.

        Args:
            path: such as `photo.trace`.
            half: records, features and gradients in float16: half the size; a weight is then right to about 1%.

        Raises:
            UserError: the file cannot be written.
        """
        from detrscope.core.trace_file import save_trace

        return save_trace(self, path, half=half)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a file that `save` wrote; the model is not needed.

        Raises:
            UserError: missing, truncated, not a trace, or written in a way that this version does not know.
        """
        from detrscope.core.trace_file import load_trace

        return load_trace(path)

    def _rows(self, site: str, queries: Sequence[int]) -> Tensor:
        """[h, n, S] float32."""
        return exact(self.record(site)).rows(torch.tensor(queries))[0].float()

    def _chosen(self, query: int | Sequence[int] | None) -> tuple[int, ...]:
        if query is None:
            return tuple(range(self.queries))
        chosen = (query,) if isinstance(query, int) else tuple(query)
        if not chosen:
            raise UserError("query: an empty list; give at least one query, or None for all of them")
        return tuple(self.check_query(one) for one in chosen)

    def _caption(self, site: str, who: str, head: int | None, merge: Merge, heads: int, over: str) -> str:
        which = f"head {head} of {heads}" if head is not None else f"{merge} of {heads} heads"
        how = "points splatted on" if isinstance(self.records.get(site), DeformableRecord) else "softmax over"
        return f"{self._model()}, {site}, {who}, {which}, {how} {over}"

    def _model(self) -> str:
        return self.card.variant + (f", {len(self.edits)} edits" if self.edits else "")
