"""Door 1: all softmax attention happens here, is recorded here and is edited here.

Scaled dot-product attention, Vaswani et al. 2017 (arXiv:1706.03762), equation 1, per head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, Swap
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord, mask_to_bias
from detrscope.core.types import Level
from detrscope.ops.dropout import dropout as drop
from detrscope.ops.edits import between_queries, broadcast_scores, crossing, in_levels, swapped

SMALL_MAP = 1 << 16  # elements of one head's map


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    heads: int,
    site: str,
    padding: Tensor | None = None,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    probe: Probe | None = None,
) -> Tensor:
    """Multi-head softmax attention of projected queries over projected keys.

    Args:
        query: [B, Q, h*d].
        key: [B, S, h*d].
        value: [B, S, h*dv].
        heads: h.
        site: the name under which a probe finds this place.
        padding: [B, S] bool, True at keys that are padding.
        mask: [Q, S] bool, True where a query must not look.
        dropout: probability of dropping a weight, training only.
        probe: keeps the record of this site and makes its edits; None when nobody looks. Without an edit here, the
            output is the same to the last bit.

    Returns:
        [B, Q, h*dv], heads side by side, before the output projection.

    Raises:
        UserError: an edit whose shape or indices do not fit this site.
    """
    q, k, v = (
        _split_heads(x, heads) for x in (query, key, value)
    )  # [B, h, Q, d], [B, h, S, d], [B, h, S, dv]
    scale = q.shape[-1] ** -0.5
    blocked = _blocked(padding, mask)  # broadcasts to [B, 1, Q, S]
    bias = None if blocked is None else mask_to_bias(blocked, q.dtype)
    gain = None
    if probe is not None:
        for edit in probe.edits_at(site):
            levels = () if between_queries(site) else probe.levels
            q, k, v, bias, gain = _apply(edit, q, k, v, bias, gain, levels)
        if probe.wants(site):
            kept = v.detach() if probe.values else None
            probe.keep(site, DenseRecord(q.detach(), k.detach(), kept, scale, bias, gain))
    if gain is not None or _plain_is_faster(q, k, dropout):
        weights = DenseRecord(q, k, v, scale, bias, gain).rows()  # [B, h, Q, S]
        out = drop(weights, dropout) @ v  # [B, h, Q, dv]
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)  # [B, h, Q, dv]
    out = out.transpose(1, 2).flatten(2)  # [B, Q, h*dv]
    return out if probe is None else probe.tap(site, out)


def _plain_is_faster(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Whether to write the map out: on a CPU, with dropout or learning from a small one (fused, that is slow)."""
    if q.device.type != "cpu":
        return False
    small = q.shape[2] * k.shape[2] <= SMALL_MAP
    return dropout > 0 or (small and torch.is_grad_enabled() and q.requires_grad)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _blocked(padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
    if padding is None:
        return None if mask is None else mask[None, None]  # [1, 1, Q, S]
    padding = padding[:, None, None, :]  # [B, 1, 1, S]
    return padding if mask is None else padding | mask[None, None]


def _apply(
    edit: Edit,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    levels: Sequence[Level],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])  # [B, h, Q, S]
    match edit:
        case Bias():
            scores = broadcast_scores(edit, shape).to(q)
            bias = scores if bias is None else bias + scores
        case Gain():
            factor = torch.where(_crossing(edit, shape, levels), edit.factor, 1.0).to(q)
            gain = factor if gain is None else gain * factor
        case Swap():
            new = swapped(edit, {"query": q, "key": k, "value": v})
            q, k, v = (
                new if edit.what == name else x for name, x in (("query", q), ("key", k), ("value", v))
            )
    return q, k, v, bias, gain


def _crossing(edit: Gain, shape: tuple[int, ...], levels: Sequence[Level]) -> Tensor:
    """True where the named heads, queries, keys and levels cross; size 1 along axes not named."""
    if edit.points is not None:
        raise UserError(
            f"gain at '{edit.site}': this site attends to all keys and has no points; name keys or levels"
        )
    chosen = crossing(
        edit, {1: ("head", edit.heads), 2: ("query", edit.queries), 3: ("key", edit.keys)}, shape
    )
    if edit.levels is None:
        return chosen
    return chosen & in_levels(edit, levels, shape[3])
