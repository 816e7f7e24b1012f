"""Attention rollout: attention of a query or a token through all layers.

Abnar and Zuidema 2020 (arXiv:2005.00928, section 3): each layer is taken as A' = 0.5 A + 0.5 I, A the mean over heads
and I the residual connection, and the layers are multiplied. Only one row of the product is needed, so one row is
pushed down through the layers and no product of maps is formed.

The paper has one stream of tokens. Here a decoder layer mixes queries (self-attention), then tokens into queries
(cross-attention), each with its residual: a query's row goes over queries and tokens, and its part over tokens goes
on through the encoder. Mass that remains on the queries at the bottom comes from their initial state, not from the
image: the map's mass is less than 1 by it. Convolutions that fuse maps (RT-DETR's encoder, LW-DETR's projector) have
no attention: they count as the identity, unless they change the size of the only maps; then rollout ends above them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Selection
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TOKEN_KINDS, TraceData
from detrscope.lens.attention_product import attention_product_from_queries
from detrscope.lens.maps import map_of_row

RESIDUAL = 0.5  # share of the residual connection in a layer's output


def rollout(
    trace: TraceData,
    query: int | None = None,
    point: tuple[float, float] | None = None,
    level: int = 0,
    residual: float = RESIDUAL,
) -> AttentionMap:
    """Return the rollout of a query, or of an encoder token, over the image.

    Args:
        trace: trace with the records of all layers.
        query: query index.
        point: x, y in pixels of the original image, instead of `query`; selects the encoder token there.
        level: feature level of that token; 0 is the finest.
        residual: share of the residual connection in each layer's output.

    Raises:
        UserError: not exactly one of `query` and `point`, no such query or point, or a site was not recorded.
    """
    if (query is None) == (point is None):
        raise UserError("rollout: give query=, or point=(x, y) of the original image")
    on_tokens = torch.zeros(1, trace.tokens)  # the part of the row that lies on tokens
    if point is not None:
        site = trace.site(trace.token_kind)
        own = trace.tokens_at(site)
        if own == slice(0):
            raise UserError(f"rollout: tokens at {site} are not those of the decoder; give query=")
        on_tokens[0, own.start + trace.token_at(point, level, site)] = 1
        name = f"token at ({point[0]:g}, {point[1]:g})"
    else:
        assert query is not None
        name = trace.query_name(trace.check_query(query))
        on_queries = torch.zeros(1, trace.queries)
        on_queries[0, query] = 1
        for layer in reversed(range(trace.layers("decoder.cross"))):
            on_tokens += (1 - residual) * _through(trace, trace.site("decoder.cross", layer), on_queries)
            on_queries = residual * on_queries
            among = _through(trace, trace.site("decoder.self", layer), on_queries)
            on_queries = residual * on_queries + (1 - residual) * among
    for site in reversed([site for kind in TOKEN_KINDS for site in trace.sites_of(kind)]):
        own = trace.tokens_at(site)  # the others stay what they are
        if own == slice(0):
            continue  # a backbone whose maps are resized: its tokens are others
        on_tokens[:, own] = residual * on_tokens[:, own] + (1 - residual) * _through(
            trace, site, on_tokens[:, own]
        )
    return map_of_row(
        trace, on_tokens[0], Selection("rollout", point=point), f"rollout of {name}", of_site=False
    )


def _through(trace: TraceData, site: str, weights: Tensor) -> Tensor:
    return attention_product_from_queries(trace.record(site), weights)
