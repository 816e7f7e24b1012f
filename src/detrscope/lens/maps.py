"""Attention maps of a trace: rows of its records, laid out over the image or over the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detrscope.core.attention_map import (
    AttentionMap,
    Merge,
    QueryAttention,
    Selection,
    merged_heads,
    parts_of,
)
from detrscope.core.errors import UserError
from detrscope.core.records import DeformableRecord, to_float32
from detrscope.core.trace_data import TraceData


def cross_attention(
    trace: TraceData,
    query: int | Sequence[int] | None = None,
    layer: int = -1,
    head: int | None = None,
    level: int | None = None,
    merge: Merge = "mean",
) -> AttentionMap:
    """Return the decoder cross-attention of a query over the image.

    Args:
        trace: with the record of that layer.
        query: query index; several are averaged; None averages all queries.
        layer: decoder layer, the last by default.
        head: head index; None merges the heads.
        level: feature level; None shows all levels.
        merge: how heads are merged.

    Raises:
        UserError: no such query, layer, head or level, or the site was not recorded.
    """
    site = trace.site("decoder.cross", layer)
    chosen = _query_indices(trace, query)
    name = ", ".join(trace.query_name(q) for q in chosen) if len(chosen) <= 3 else f"{len(chosen)} queries"
    if query is None:
        name = f"mean of all {trace.queries} queries"
    elif len(chosen) > 1:
        name = f"mean of {name}"
    return map_of_rows(trace, Selection(site, chosen, head, merge, level), name)


def self_attention(
    trace: TraceData,
    point: tuple[float, float] | None = None,
    query: int | None = None,
    layer: int = -1,
    head: int | None = None,
    level: int | None = None,
    merge: Merge = "mean",
    from_level: int = 0,
) -> AttentionMap | QueryAttention:
    """Return the self-attention of an image token (encoder) or of a query (decoder).

    Args:
        trace: with the record of that layer.
        point: x, y in pixels of the original image; selects the encoder token there.
        query: query index, instead of `point`.
        layer: encoder layer (`point`) or decoder layer (`query`), the last by default.
        head: head index; None merges the heads.
        level: feature level; None shows all levels.
        merge: how heads are merged.
        from_level: feature level of the token at `point`; 0 is the finest.

    Raises:
        UserError: not exactly one of `point` and `query`, a point outside the image, no such layer, head or level, or
            the site was not recorded.
    """
    if (point is None) == (query is None):
        raise UserError("self_attention: give point=(x, y) of the original image, or query=")
    if point is not None:
        trace.check_index("level", from_level, len(trace.levels))
        token = trace.token_at(point, from_level)
        selection = Selection(trace.site("encoder.self", layer), (token,), head, merge, level, point)
        name = f"token at ({point[0]:g}, {point[1]:g})"
        if len(trace.levels) > 1:
            name += f" of level {from_level}"
        return map_of_rows(trace, selection, name)
    assert query is not None
    trace.check_query(query)
    site = trace.site("decoder.self", layer)
    rows = _rows(trace, site, (query,))
    trace.check_index("head", head, rows.shape[0])
    values = merged_heads(rows, head, merge)[0]
    caption = _caption(trace, site, trace.query_name(query), head, merge, len(rows), f"{len(values)} queries")
    return QueryAttention(
        values=values,
        boxes_cxcywh=trace.boxes_cxcywh[layer if len(trace.boxes_cxcywh) > 1 else -1],
        geometry=trace.geometry,
        image=trace.image,
        selection=Selection(site, (query,), head, merge),
        caption=f"{caption}, weights sum to {float(values.sum()):.3f}",
    )


def map_of_rows(trace: TraceData, selection: Selection, name: str) -> AttentionMap:
    """Return the map of some rows of an attention site whose keys are image tokens.

    Args:
        trace: with the record of that site.
        selection: site, rows and how they are merged.
        name: name of the rows in the caption.

    Raises:
        UserError: no such head or level, or the site was not recorded.
    """
    rows = _rows(trace, selection.site, selection.queries)  # [h, n, S]
    trace.check_index("head", selection.head, rows.shape[0])
    row = merged_heads(rows, selection.head, selection.merge).mean(0)  # [S]
    return map_of_row(trace, row, selection, name, heads=rows.shape[0])


def map_of_row(
    trace: TraceData, row: Tensor, selection: Selection, name: str, heads: int | None = None
) -> AttentionMap:
    """Return weights over all tokens [S] as a map with its caption.

    Args:
        trace: gives the geometry, the levels and the image.
        row: [S].
        selection: what the weights were computed from.
        name: name of the row in the caption.
        heads: number of heads of the site; None for weights computed over heads and layers.

    Raises:
        UserError: no such level.
    """
    trace.check_index("level", selection.level, len(trace.levels))
    parts = parts_of(row, trace.levels)
    ids = range(len(parts)) if selection.level is None else [selection.level % len(parts)]
    sizes = ", ".join(f"{trace.levels[i].height}x{trace.levels[i].width}" for i in ids)
    attention = AttentionMap(
        parts=tuple(parts[i] for i in ids),
        level_ids=tuple(ids),
        geometry=trace.geometry,
        image=trace.image,
        selection=selection,
    )
    if heads is None:
        caption = f"{_model_name(trace)}, {name}, {sizes} tokens"
    else:
        caption = _caption(
            trace, selection.site, name, selection.head, selection.merge, heads, f"{sizes} tokens"
        )
    if selection.level is not None and len(trace.levels) > 1:
        caption += f" of level {ids[0]}"
    return replace(attention, caption=f"{caption}, weights sum to {attention.mass:.3f}")


def _rows(trace: TraceData, site: str, queries: Sequence[int]) -> Tensor:
    """Return some rows of a site, [h, n, S] float32."""
    return to_float32(trace.record(site)).rows(torch.tensor(queries))[0].float()


def _query_indices(trace: TraceData, query: int | Sequence[int] | None) -> tuple[int, ...]:
    if query is None:
        return tuple(range(trace.queries))
    indices = (query,) if isinstance(query, int) else tuple(query)
    if not indices:
        raise UserError("query: an empty list; give at least one query, or None for all of them")
    return tuple(trace.check_query(index) for index in indices)


def _caption(
    trace: TraceData, site: str, name: str, head: int | None, merge: Merge, heads: int, keys: str
) -> str:
    merged = f"head {head} of {heads}" if head is not None else f"{merge} of {heads} heads"
    deformable = isinstance(trace.records.get(site), DeformableRecord)
    how = "points splatted on" if deformable else "softmax over"
    return f"{_model_name(trace)}, {site}, {name}, {merged}, {how} {keys}"


def _model_name(trace: TraceData) -> str:
    return trace.card.variant + (f", {len(trace.edits)} edits" if trace.edits else "")
