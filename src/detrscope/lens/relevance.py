"""Gradient-weighted relevance of image tokens for one prediction, through all layers.

Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers" (arXiv:2103.15679). Rule numbers are those of its section 3; i are image tokens, q queries:

    A_bar = mean over heads of (dA * A)^+                                     (5)
    encoder layer          R_ii <- R_ii + A_bar R_ii                          (6), initially R_ii = I (3)
    decoder self-attention R_qq <- R_qq + A_bar R_qq                          (6), initially R_qq = I (3)
                           R_qi <- R_qi + A_bar R_qi                          (7), initially R_qi = 0 (4)
    cross-attention        R_qi <- R_qi + N(R_qq)^T A_bar N(R_ii)             (10)
    N(R) = (R - I) / rowsum(R - I) + I                                        (8, 9)

The result is one row of R_qi. R_ii has tokens x tokens entries, 22,223 x 22,223 for Deformable DETR, and is never
formed. The row is a sum over decoder layers of (a vector over queries)^T A_bar, which N(R_ii) acts on from the right:

    u N(R_ii) = (u / r) (R_ii - I) + u,  r = rowsum(R_ii - I) = R_ii 1 - 1

so that vectors need only be pushed through the layers: 1 upwards for r, u / r downwards. R_qq is small and is formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Selection
from detrscope.core.errors import UserError
from detrscope.core.records import Gradient
from detrscope.core.trace_data import TOKEN_KINDS, TraceData
from detrscope.lens.attention_product import AttentionProduct, attention_product_from_queries
from detrscope.lens.maps import map_of_row


def relevance(trace: TraceData, query: int) -> AttentionMap:
    """Return the relevance of each image token for a query's best class.

    Args:
        trace: trace made with `explain=[query]`, all sites recorded.
        query: query index.

    Raises:
        UserError: the trace has no gradients of this query, or a site was not recorded.
    """
    gradient = relevance_gradient(trace, query)
    row = _through_encoder(trace, gradient, _on_tokens(trace, gradient, query))
    name = f"relevance for {_prediction(trace, gradient)}"
    return map_of_row(trace, row[0], Selection("relevance", (query,)), name, of_site=False)


def gradient_attention(trace: TraceData, query: int, layer: int = -1) -> AttentionMap:
    """Return the gradient-weighted cross-attention of one layer: rule 5, mean over heads of (dA * A)^+.

    Args:
        trace: trace made with `explain=[query]`.
        query: query index.
        layer: decoder layer, the last by default.

    Raises:
        UserError: the trace has no gradients of this query, no such layer, or its site was not recorded.
    """
    gradient = relevance_gradient(trace, query)
    site = trace.site("decoder.cross", layer)
    row = attention_product_from_queries(trace.record(site), _one_hot(trace, query), _at(gradient, site))
    name = f"gradient-weighted {site} for {_prediction(trace, gradient)}"
    return map_of_row(trace, row[0], Selection(site, (query,)), name, of_site=False)


def relevance_gradient(trace: TraceData, query: int) -> Gradient:
    """Return the gradients of a query's score.

    Raises:
        UserError: the trace has none.
    """
    for gradient in trace.gradients:
        if gradient.query == query:
            return gradient
    have = ", ".join(str(g.query) for g in trace.gradients) or "no query"
    raise UserError(
        f"no gradients of query {query} in this trace (of {have}); make it with explain=[{query}]"
    )


def _on_tokens(trace: TraceData, gradient: Gradient, query: int) -> Tensor:
    """Return u, the row of R_qi before N(R_ii) acts on it: [1, S]."""
    layers = range(trace.layers("decoder.cross"))
    identity = torch.eye(trace.queries)
    r_qq = torch.zeros_like(identity)  # R_qq - I: added to 1, small numbers would be rounded away
    normal, maps = [], []
    for layer in layers:
        site = trace.site("decoder.self", layer)
        maps.append(
            attention_product_from_queries(trace.record(site), identity, _at(gradient, site))
        )  # A_bar, [Q, Q]
        r_qq = r_qq + maps[-1] @ (identity + r_qq)  # rule 6
        normal.append(_divide(r_qq, r_qq.sum(-1, keepdim=True)) + identity)  # rules 8, 9
    u, weights = torch.zeros(1, trace.tokens), _one_hot(trace, query)
    for layer in reversed(layers):  # the layers above act on this layer's part by rule 7
        site = trace.site("decoder.cross", layer)
        u += attention_product_from_queries(
            trace.record(site), weights @ normal[layer].T, _at(gradient, site)
        )  # rule 10
        weights = weights + weights @ maps[layer]  # rule 7
    return u


def _through_encoder(trace: TraceData, gradient: Gradient, u: Tensor) -> Tensor:
    """Return u N(R_ii) with R_ii of the whole encoder: [1, S] -> [1, S]."""
    sites = [site for kind in TOKEN_KINDS for site in trace.sites_of(kind)]
    sites = [
        site for site in sites if trace.tokens_at(site) != slice(0)
    ]  # else maps are resized: other tokens
    layers = [AttentionProduct(trace.record(site), _at(gradient, site), cache=True) for site in sites]
    owns = [trace.tokens_at(site) for site in sites]  # the others stay what they are
    rowsum = torch.zeros(u.shape[1], 1)  # of R_ii - I
    for layer, own in zip(layers, owns, strict=True):  # the lowest first
        rowsum[own] += layer.from_tokens(1 + rowsum[own])
    start = _divide(u, rowsum.T)
    gained = torch.zeros_like(u)  # start (R_ii - I)
    for layer, own in zip(reversed(layers), reversed(owns), strict=True):
        gained[:, own] += layer.from_queries(start[:, own] + gained[:, own])
    return gained + u


def _one_hot(trace: TraceData, query: int) -> Tensor:
    """Return a row over queries that is 1 at one of them: [1, Q]."""
    row = torch.zeros(1, trace.queries)
    row[0, query] = 1
    return row


def _divide(parts: Tensor, total: Tensor) -> Tensor:
    """Divide; 0 where the total is 0, so that a row without relevance of others stays that of I."""
    return torch.where(total > 0, parts / total.clamp(min=torch.finfo(total.dtype).tiny), 0)


def _at(gradient: Gradient, site: str) -> Tensor:
    if site not in gradient.sites:
        raise UserError(
            f"no gradient at '{site}' in this trace; record every site and give explain=[{gradient.query}]"
        )
    return gradient.sites[site]


def _prediction(trace: TraceData, gradient: Gradient) -> str:
    return f"query {gradient.query} as {trace.classes.names[gradient.class_index]}"
