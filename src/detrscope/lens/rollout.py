"""Attention rollout: where what a query or a token ends with came from, through all layers.

Abnar and Zuidema 2020 (arXiv:2005.00928, section 3): each layer is taken as A' = 0.5 A + 0.5 I, A the mean over heads
and I the residual connection, and the layers are multiplied. Only one row of the product is wanted, so one row is
pushed down through the layers and no product of maps is formed.

The paper has one stream of tokens. Here a decoder layer mixes queries (self-attention), then tokens into queries
(cross-attention), each with its residual: a query's row goes over queries and tokens, and its part over tokens goes
on through the encoder. What remains on the queries at the bottom is what they started with; it comes from no place in
the image, and the map's mass is less than 1 by it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Selection
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.lens.attention_product import from_queries
from detrscope.lens.maps import map_of_row

RESIDUAL = 0.5  # the part of a layer's output that is its input


def rollout(
    trace: TraceData,
    query: int | None = None,
    point: tuple[float, float] | None = None,
    level: int = 0,
    residual: float = RESIDUAL,
) -> AttentionMap:
    """The map over the image of what a query ends with, or of what the encoder makes of a token.

    Args:
        trace: with the records of all layers.
        query: of the decoder.
        point: x, y of the original, in place of a query: the encoder's token there.
        level: of which map that token is; 0 is the finest.
        residual: the part of each layer's output that is its input.

    Raises:
        UserError: not one of query and point, no such query or point, or a site was not recorded.
    """
    if (query is None) == (point is None):
        raise UserError("rollout: give query=, or point=(x, y) of the original image")
    seen = torch.zeros(1, trace.tokens)  # the part of the row that lies on tokens
    if point is not None:
        trace.check_index("level", level, len(trace.levels))
        seen[0, trace.token_at(point, level)] = 1
        who = f"token at ({point[0]:g}, {point[1]:g})"
    else:
        assert query is not None
        who = trace.query_name(trace.check_query(query))
        asking = torch.zeros(1, trace.queries)
        asking[0, query] = 1
        for layer in reversed(range(trace.layers("decoder.cross"))):
            seen += (1 - residual) * _through(trace, trace.site("decoder.cross", layer), asking)
            asking = residual * asking
            among = _through(trace, trace.site("decoder.self", layer), asking)
            asking = residual * asking + (1 - residual) * among
    for layer in reversed(range(trace.layers("encoder.self"))):
        seen = residual * seen + (1 - residual) * _through(trace, trace.site("encoder.self", layer), seen)
    return map_of_row(trace, seen[0], Selection("rollout", point=point), f"rollout of {who}", of_site=False)


def _through(trace: TraceData, site: str, weights: Tensor) -> Tensor:
    return from_queries(trace.record(site), weights)
