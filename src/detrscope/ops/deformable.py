"""Deformable attention: the only function that computes, records and edits it.

Multi-scale deformable attention, Zhu et al. 2020 (arXiv:2010.04159), equations 2 and 3: every query samples a few
points of the feature maps and sums the samples by weights of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, GraphEdit, Swap
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from detrscope.core.types import Level
from detrscope.ops.edits import (
    apply_swap_edit,
    broadcast_edit_scores,
    edit_selection_mask,
    resolve_deformable_edit,
)
from detrscope.ops.kernels.deformable_dispatch import run_kernel, use_kernel
from detrscope.ops.kernels.deformable_reference import sample_reference, sum_dtype
from detrscope.ops.softmax import softmax_rows

__all__ = ["sample", "sample_reference", "use_kernel"]


def sample(
    value: Tensor,
    points: Tensor,
    scores: Tensor,
    *,
    levels: Sequence[Level],
    point_levels: Sequence[int],
    reference: Tensor,
    site: str,
    probe: Probe | None = None,
) -> Tensor:
    """Compute multi-head deformable attention of queries over the values of all feature maps.

    Weights and sums are float32 at least, whatever the type of the values. A point that is not finite makes its
    query's output NaN in its head.

    Args:
        value: [B, S, h, d], zero where there is padding; S runs over the levels in order.
        points: [B, Q, h, P, 2] x, y, 0..1 of the point's own map with its padding; may lie outside, where values are 0.
        scores: [B, Q, h, P] before the softmax over all P points of a head.
        levels: sizes of the L maps.
        point_levels: the level of each of the P points; any number of points per level, in any order.
        reference: [B, Q, L, 2 or 4] reference points or boxes of the points, for the record.
        site: name of the attention site.
        probe: records and edits of this site; without an edit here, the output stays the same to the last bit.

    Returns:
        [B, Q, h*d] in the type of `value`, heads concatenated, before the output projection.

    Raises:
        UserError: an edit that does not fit this site, or a requested kernel that cannot run here.
    """
    dtype = sum_dtype(value.dtype)
    b, q, h, p = scores.shape
    edits: list[Edit] = []
    if probe is not None:
        edits = [
            resolve_deformable_edit(edit, (b, h, q, p), levels, point_levels, probe.geometry)
            for edit in probe.edits_at(site)
        ]
    scores = _biased(scores, edits)
    graph_edit = None if probe is None else probe.graph_edits.get(site)
    if graph_edit is not None:
        assert graph_edit.point_bias is not None, "the edit is for deformable attention"
        scores = scores + graph_edit.point_bias.to(scores)  # [h, P]
    weights = softmax_rows(scores, dtype)
    sampling = _Sampling(value, points.to(dtype), weights, tuple(levels), tuple(point_levels))
    for edit in sorted(edits, key=lambda edit: isinstance(edit, Gain)):  # gains come last
        sampling = _edited(sampling, edit)
    if graph_edit is not None:
        sampling = _with_graph_edit(sampling, graph_edit)
    if probe is not None and probe.records_site(site):
        probe.keep(site, sampling.record(reference, probe.values))
    out = sampling.run()
    return out if probe is None else probe.tap(site, out)


class _Sampling(NamedTuple):
    """Inputs of deformable attention after the softmax."""

    value: Tensor  # [B, S, h, d]
    points: Tensor  # [B, Q, h, P, 2]
    weights: Tensor  # [B, Q, h, P]
    levels: tuple[Level, ...]
    point_levels: tuple[int, ...]
    key_gain: Tensor | None = None  # [G, S]
    key_group: Tensor | None = None  # broadcasts to [B, Q, h, P]

    def run(self) -> Tensor:
        """Return [B, Q, h*d]; points whose keys have different gains are sampled apart and added up."""
        value, points, weights, levels, point_levels, key_gain, key_group = self
        if key_gain is None or key_group is None:
            return run_kernel(value, points, weights, levels, point_levels)
        parts = []
        for group, gain in enumerate(key_gain.to(value)):
            share = weights if len(key_gain) == 1 else weights * (key_group == group)
            parts.append(run_kernel(value * gain[:, None, None], points, share, levels, point_levels))
        return torch.stack(parts).sum(0)

    def record(self, reference: Tensor, values: bool) -> DeformableRecord:
        """Return the record of the site, with the values where `values`."""
        return DeformableRecord(
            points=self.points.detach().transpose(1, 2),
            weights=self.weights.detach().transpose(1, 2),
            value=self.value.detach().transpose(1, 2) if values else None,
            point_levels=self.point_levels,
            levels=self.levels,
            reference=reference.detach(),
            key_gain=self.key_gain,
            key_group=None if self.key_group is None else self.key_group.transpose(1, 2),
        )


def _biased(scores: Tensor, edits: Sequence[Edit]) -> Tensor:
    b, q, h, p = scores.shape
    for edit in edits:
        if isinstance(edit, Bias):
            bias = broadcast_edit_scores(edit, (b, h, q, p)).expand(b, h, q, p)
            scores = scores + bias.transpose(1, 2).to(scores)
    return scores


def _edited(sampling: _Sampling, edit: Edit) -> _Sampling:
    """Apply an edit that acts after the softmax: a swap, or a gain on weights or keys."""
    match edit:
        case Swap():
            parts = {"value": sampling.value, "points": sampling.points, "weights": sampling.weights}
            new = apply_swap_edit(edit, {name: x.transpose(1, 2) for name, x in parts.items()})
            parts[edit.part] = new.transpose(1, 2)
            return sampling._replace(value=parts["value"], points=parts["points"], weights=parts["weights"])
        case Gain(keys=None):
            factor = torch.where(_gain_mask(edit, sampling), edit.factor, 1.0)
            return sampling._replace(weights=sampling.weights * factor.to(sampling.weights))
        case Gain():
            return _with_key_gain(sampling, edit)
    return sampling


def _with_graph_edit(sampling: _Sampling, edit: GraphEdit) -> _Sampling:
    """Apply the gains that are inputs of an exported graph; those of keys multiply the values."""
    assert edit.point_gain is not None, "the edit is for deformable attention"
    weights = sampling.weights * edit.point_gain.to(sampling.weights)  # [h, P]
    weights = weights * edit.query_gain.transpose(0, 1)[None, :, :, None].to(sampling.weights)  # [1, Q, h, 1]
    value = sampling.value * edit.key_gain.transpose(0, 1)[None, :, :, None].to(
        sampling.value
    )  # [1, S, h, 1]
    return sampling._replace(value=value, weights=weights)


def _gain_mask(edit: Gain, sampling: _Sampling) -> Tensor:
    """Return a mask of the weights that a gain selects, broadcasting to [B, Q, h, P]."""
    selections = {1: ("query", edit.queries), 2: ("head", edit.heads), 3: ("point", edit.points)}
    mask = edit_selection_mask(edit, selections, sampling.weights.shape)
    if edit.levels is None:
        return mask
    of_level = edit_selection_mask(edit, {0: ("level", edit.levels)}, (len(sampling.levels),))
    return mask & of_level[list(sampling.point_levels)]


def _with_key_gain(sampling: _Sampling, edit: Gain) -> _Sampling:
    """Apply a gain on tokens; if it is for some points only, these become a group whose keys have their own gain."""
    tokens = sampling.value.shape[1]
    keys = edit_selection_mask(edit, {0: ("key", edit.keys)}, (tokens,))
    gain = torch.where(keys, edit.factor, 1.0).to(sampling.weights)  # [S]
    mask = _gain_mask(edit, sampling).to(sampling.weights.device)
    old = gain.new_ones(1, tokens) if sampling.key_gain is None else sampling.key_gain  # [G, S]
    group = torch.zeros_like(mask, dtype=torch.long) if sampling.key_group is None else sampling.key_group
    if bool(mask.all()):
        return sampling._replace(key_gain=old * gain, key_group=group)
    return sampling._replace(key_gain=torch.cat([old, old * gain]), key_group=group + len(old) * mask)
