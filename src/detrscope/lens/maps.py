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
    merge_attention_heads,
    split_attention_by_level,
)
from detrscope.core.errors import UserError
from detrscope.core.records import record_to_float32
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import map_caption


def map_of_cross_attention(
    trace: TraceData,
    query: int | Sequence[int] | None = None,
    layer: int = -1,
    head: int | None = None,
    level: int | None = None,
    merge: Merge = "mean",
) -> AttentionMap:
    """Return the decoder cross-attention of a query over the image.

    Args:
        trace: trace with the record of that layer.
        query: query index; several are averaged; None averages all queries.
        layer: decoder layer, the last by default.
        head: head index; None merges the heads.
        level: feature level; None shows all levels.
        merge: how heads are merged.

    Raises:
        UserError: no such query, layer, head or level, or the site was not recorded.
    """
    site = trace.site("decoder.cross", layer)
    queries = _query_indices(trace, query)
    if query is None:
        name = f"mean of all {trace.queries} queries"
    else:
        name = ", ".join(map(trace.query_name, queries)) if len(queries) <= 3 else f"{len(queries)} queries"
        name = f"mean of {name}" if len(queries) > 1 else name
    return map_of_rows(trace, Selection(site, queries, head, merge, level), name)


def map_of_self_attention(
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
        trace: trace with the record of that layer.
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
        site = trace.site(trace.token_kind, layer)
        trace.check_index("level", from_level, len(trace.levels_at(site)))
        token = trace.token_at(point, from_level, site)
        selection = Selection(site, (token,), head, merge, level, point)
        name = f"token at ({point[0]:g}, {point[1]:g})"
        if len(trace.levels_at(site)) > 1:
            name += f" of level {from_level}"
        return map_of_rows(trace, selection, name)
    assert query is not None
    selection = Selection(trace.site("decoder.self", layer), (trace.check_query(query),), head, merge)
    values = merge_attention_heads(_rows(trace, selection), head, merge)[0]  # [Q]
    return QueryAttention(
        values=values,
        boxes_cxcywh=trace.boxes_cxcywh[layer if len(trace.boxes_cxcywh) > 1 else -1],
        geometry=trace.geometry,
        image=trace.image,
        selection=selection,
        caption=map_caption(trace, selection, trace.query_name(query), float(values.sum())),
    )


def map_of_rows(trace: TraceData, selection: Selection, name: str) -> AttentionMap:
    """Return the map of some rows of an attention site whose keys are image tokens.

    Args:
        trace: trace with the record of that site.
        selection: site, rows and how they are merged.
        name: name of the rows in the caption.

    Raises:
        UserError: no such head or level, or the site was not recorded.
    """
    rows = _rows(trace, selection)  # [h, n, S]
    return map_of_row(
        trace, merge_attention_heads(rows, selection.head, selection.merge).mean(0), selection, name
    )


def map_of_row(
    trace: TraceData, row: Tensor, selection: Selection, name: str, *, of_site: bool = True
) -> AttentionMap:
    """Return weights over all tokens as a map with its caption.

    Args:
        trace: gives the geometry, the levels and the image.
        row: [S].
        selection: what the weights were computed from.
        name: name of the row in the caption.
        of_site: whether these are weights of one site, not computed over heads and layers.

    Raises:
        UserError: no such level.
    """
    sizes = trace.levels_at(selection.site)
    trace.check_index("level", selection.level, len(sizes))
    parts = split_attention_by_level(row, sizes)
    levels = range(len(parts)) if selection.level is None else [selection.level % len(parts)]
    attention = AttentionMap(
        parts=tuple(parts[level] for level in levels),
        level_ids=tuple(levels),
        geometry=trace.geometry,
        image=trace.image,
        selection=selection,
    )
    return replace(attention, caption=map_caption(trace, selection, name, attention.mass, of_site=of_site))


def row_maps(trace: TraceData, selection: Selection) -> list[AttentionMap]:
    """Return the map of each selected row of a site, not averaged; raises as `map_of_rows` does."""
    return [
        map_of_rows(trace, replace(selection, queries=(row,)), _row_name(trace, selection.site, row))
        for row in selection.queries
    ]


def head_maps(trace: TraceData, selection: Selection) -> list[AttentionMap]:
    """Return the map of every head of a site for one selected row; raises as `map_of_rows` does."""
    (row,) = selection.queries
    name = _row_name(trace, selection.site, row)
    weights = _rows(trace, replace(selection, head=None))[:, 0]  # [h, S]
    return [
        map_of_row(trace, of_head, replace(selection, head=head), name)
        for head, of_head in enumerate(weights)
    ]


def _row_name(trace: TraceData, site: str, row: int) -> str:
    return trace.query_name(row) if site.startswith("decoder") else f"token {row}"


def _rows(trace: TraceData, selection: Selection) -> Tensor:
    """Return the selected rows of a site, [h, n, S] float32.

    Raises:
        UserError: no such head, or the site was not recorded.
    """
    rows = record_to_float32(trace.record(selection.site)).rows(torch.tensor(selection.queries))[0].float()
    trace.check_index("head", selection.head, len(rows))
    return rows


def _query_indices(trace: TraceData, query: int | Sequence[int] | None) -> tuple[int, ...]:
    if query is None:
        return tuple(range(trace.queries))
    indices = (query,) if isinstance(query, int) else tuple(query)
    if not indices:
        raise UserError("query: an empty list; give at least one query, or None for all of them")
    return tuple(trace.check_query(index) for index in indices)
