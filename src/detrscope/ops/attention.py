"""Softmax attention: the only function that computes, records and edits it.

Scaled dot-product attention, Vaswani et al. 2017 (arXiv:1706.03762), equation 1, per head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, GraphEdit, Swap
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord, mask_to_bias
from detrscope.core.types import Level, Windows
from detrscope.ops.dropout import dropout as drop
from detrscope.ops.edits import (
    apply_swap_edit,
    broadcast_edit_scores,
    edit_has_query_keys,
    edit_level_mask,
    edit_selection_mask,
    pad_factor,
    resolve_dense_edit,
)
from detrscope.ops.windows import IGNORED, join_windows, split_windows, window_padding

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
    levels: tuple[Level, ...] | None = None,
    windows: Windows | None = None,
) -> Tensor:
    """Compute multi-head softmax attention of projected queries over projected keys.

    Args:
        query: [B, Q, h*d].
        key: [B, S, h*d].
        value: [B, S, h*dv].
        heads: h.
        site: name of the attention site.
        padding: [B, S] bool, True at keys that are padding.
        mask: [Q, S] bool, True where a query must not attend.
        dropout: probability of dropping a weight, training only.
        probe: records and edits of this site; without an edit here, the output stays the same to the last bit.
        levels: sizes of the maps that the keys come from, where they are not all of the model's. More keys than these
            have tokens: the last ones lie on no map, such as class tokens.
        windows: of the one map in `levels`, within which queries and keys attend to one another.

    Returns:
        [B, Q, h*dv], heads concatenated, before the output projection.

    Raises:
        UserError: an edit whose shape or indices do not fit this site.
    """
    q, k, v = (
        _split_heads(x, heads) for x in (query, key, value)
    )  # [B, h, Q, d], [B, h, S, d], [B, h, S, dv]
    masked = _join_masks(padding, mask)  # broadcasts to [B, 1, Q, S]
    inputs = _Inputs(q, k, v, None if masked is None else mask_to_bias(masked, q.dtype))
    scale = q.shape[-1] ** -0.5
    if probe is not None:
        own = levels if levels is not None and (windows is not None or levels != probe.levels) else None
        extra = 0 if levels is None else k.shape[2] - sum(level.tokens for level in levels)
        maps = () if edit_has_query_keys(site) else levels or probe.levels
        for edit in probe.edits_at(site):
            shape = (*q.shape[:2], q.shape[2] - extra, k.shape[2] - extra)
            if (resolved := resolve_dense_edit(edit, shape, maps, probe.geometry)) is not None:
                inputs = _edited(inputs, resolved, maps, extra)
        if probe.records_site(site):
            q, k, v, bias, gain = inputs
            values = v.detach() if probe.values else None
            record = DenseRecord(q.detach(), k.detach(), values, scale, bias, gain, own, windows, extra)
            probe.keep(site, record)
    graph_edit = None if probe is None else probe.graph_edits.get(site)
    if graph_edit is not None:
        inputs = _with_graph_edit(inputs, graph_edit)
    if windows is None:
        out = _mix(inputs, scale, dropout)
    else:
        assert levels is not None, "windows are of a map"
        if graph_edit is None and (inputs.bias is not None or inputs.gain is not None):
            q, k, v, bias, gain = inputs
            extra = k.shape[2] - levels[0].tokens
            out = DenseRecord(q, k, v, scale, bias, gain, levels, windows, extra).mixed()
        else:
            out = _mix_in_windows(inputs, scale, dropout, windows, levels[0])
    if graph_edit is not None:
        out = out * graph_edit.query_gain[None, :, :, None]  # [h, Q]: a factor on rows of the map
    out = out.transpose(1, 2).flatten(2)  # [B, Q, h*dv]
    return out if probe is None else probe.tap(site, out)


def joint_attention_map(query: Tensor, key: Tensor, *, heads: int, padding: Tensor | None = None) -> Tensor:
    """Return the weights of projected queries over projected keys, one softmax over the keys of all heads together.

    The map of DETR's mask head (arXiv:2005.12872, section 4.4). No values are mixed, so that no layer's output can be
    rebuilt from a record: it is no attention site.

    Args:
        query: [B, Q, h*d].
        key: [B, S, h*d].
        heads: h.
        padding: [B, S] bool, True at keys that are padding.

    Returns:
        [B, Q, h, S]; the h * S weights of a query sum to 1.
    """
    q, k = _split_heads(query, heads), _split_heads(key, heads)  # [B, h, Q, d], [B, h, S, d]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, h, Q, S]
    if padding is not None:
        scores = scores + mask_to_bias(padding[:, None, None, :], scores.dtype)
    scores = scores.transpose(1, 2)  # [B, Q, h, S]
    weights: Tensor = scores.flatten(2).softmax(-1)  # [B, Q, h*S]
    return weights.view(scores.shape)


class _Inputs(NamedTuple):
    query: Tensor  # [B, h, Q, d]
    key: Tensor  # [B, h, S, d]
    value: Tensor  # [B, h, S, dv]
    bias: Tensor | None = None  # broadcasts to [B, h, Q, S]
    gain: Tensor | None = None  # the same


def _mix(inputs: _Inputs, scale: float, dropout: float) -> Tensor:
    """Return weights @ values, [B, h, Q, dv]."""
    q, k, v, bias, gain = inputs
    if gain is not None or _unfused_is_faster(q, k, dropout):
        weights = DenseRecord(q, k, v, scale, bias, gain).rows()  # [B, h, Q, S]
        return drop(weights, dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def _mix_in_windows(inputs: _Inputs, scale: float, dropout: float, windows: Windows, level: Level) -> Tensor:
    """Return weights @ values of queries that attend to keys of their own window, [B, h, Q, dv].

    A bias is the input of an exported graph, the same for all queries.
    """
    q, k, v, bias, _ = inputs
    extra = k.shape[2] - level.tokens
    padding = window_padding(windows, level, extra, q)  # [windows, 1, 1, s]
    if bias is not None:
        # An input of a graph may have S of 1.
        every = bias + bias.new_zeros(1, 1, 1, k.shape[2])  # [1, h, 1, S]
        v = v * (every > -math.inf).to(v).transpose(
            2, 3
        )  # of a window that is hidden as a whole, nothing is read
        every = every.clamp(min=IGNORED)
        bias = split_windows(every.transpose(2, 3), windows, level).transpose(2, 3)  # [windows, h, 1, s]
    biases = [
        x.repeat(q.shape[0] * windows.count // x.shape[0], 1, 1, 1) for x in (bias, padding) if x is not None
    ]
    q, k, v = (split_windows(x, windows, level) for x in (q, k, v))  # [B * windows, h, s, d]
    mixed = _mix(_Inputs(q, k, v, sum(biases[1:], biases[0]) if biases else None), scale, dropout)
    return join_windows(mixed, windows, level)


def _unfused_is_faster(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Return whether to form the map: on a CPU, fused attention is slow with dropout and in training on small maps."""
    if q.device.type != "cpu":
        return False
    small = q.shape[2] * k.shape[2] <= SMALL_MAP
    return dropout > 0 or (small and torch.is_grad_enabled() and q.requires_grad)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _join_masks(padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
    if padding is None:
        return None if mask is None else mask[None, None]  # [1, 1, Q, S]
    padding = padding[:, None, None, :]  # [B, 1, 1, S]
    return padding if mask is None else padding | mask[None, None]


def _edited(inputs: _Inputs, edit: Edit, levels: Sequence[Level], extra: int) -> _Inputs:
    """Apply an edit; what it selects are queries and tokens of maps, extra ones stay what they are."""
    q, k, v, bias, gain = inputs
    shape = (q.shape[0], q.shape[1], q.shape[2] - extra, k.shape[2] - extra)  # [B, h, Q, S]
    match edit:
        case Bias():
            scores = pad_factor(broadcast_edit_scores(edit, shape).to(q), extra, 0.0)
            return inputs._replace(bias=scores if bias is None else bias + scores)
        case Gain():
            factor = torch.where(_gain_mask(edit, shape, levels), edit.factor, 1.0).to(q)
            factor = pad_factor(factor, extra, 1.0)
            return inputs._replace(gain=factor if gain is None else gain * factor)
        case Swap():
            return inputs._replace(**{edit.part: apply_swap_edit(edit, {"query": q, "key": k, "value": v})})
    return inputs


def _with_graph_edit(inputs: _Inputs, edit: GraphEdit) -> _Inputs:
    """Apply the gain and bias of keys that are inputs of an exported graph; a gain on values is one on weights."""
    assert edit.key_bias is not None, "the edit is for softmax attention"
    bias = edit.key_bias[None, :, None, :].to(inputs.query)  # [1, h, 1, S]
    value = inputs.value * edit.key_gain[None, :, :, None].to(inputs.value)
    return inputs._replace(value=value, bias=bias if inputs.bias is None else inputs.bias + bias)


def _gain_mask(edit: Gain, shape: tuple[int, ...], levels: Sequence[Level]) -> Tensor:
    """Return a mask of the weights that a gain selects, broadcasting to [B, h, Q, S]."""
    if edit.points is not None:
        raise UserError(
            f"edit '{edit.describe()}': this site attends to all keys and has no points; select keys or levels"
        )
    selections = {1: ("head", edit.heads), 2: ("query", edit.queries), 3: ("key", edit.keys)}
    mask = edit_selection_mask(edit, selections, shape)
    return mask if edit.levels is None else mask & edit_level_mask(edit, levels, shape[3])
