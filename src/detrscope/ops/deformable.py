"""Door 2: all deformable attention happens here, is recorded here and is edited here.

Multi-scale deformable attention, Zhu et al. 2020 (arXiv:2010.04159), equations 2 and 3: every query looks at a few
points of the maps, wherever they fall, and mixes what it finds there by weights of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, Swap
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from detrscope.core.types import Level
from detrscope.ops.edits import broadcast_scores, crossing, swapped
from detrscope.ops.kernels.deformable_dispatch import run_engine, use_engine
from detrscope.ops.kernels.deformable_reference import sample_reference, sums_of
from detrscope.ops.softmax import softmax_rows

__all__ = ["sample", "sample_reference", "use_engine"]


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
    """Multi-head deformable attention of queries over the values of all feature maps.

    Weights and sums are float32 at least, whatever the type of the values. A point that is not finite makes its
    query's output NaN in its head.

    Args:
        value: [B, S, h, d], zero where there is padding; S runs over the levels in order.
        points: [B, Q, h, P, 2] x, y, 0..1 of the point's own map with its padding; may lie outside, where values are 0.
        scores: [B, Q, h, P] before the softmax over all P points of a head.
        levels: sizes of the L maps.
        point_levels: the level of each of the P points; any number of points per level, in any order.
        reference: [B, Q, L, 2 or 4] reference points or boxes the points were placed around, kept in the record.
        site: the name under which a probe finds this place.
        probe: keeps the record of this site and makes its edits; None when nobody looks. Without an edit here, the
            output is the same to the last bit.

    Returns:
        [B, Q, h*d] in the type of `value`, heads side by side, before the output projection.

    Raises:
        UserError: an edit that does not fit this site, or an engine that was asked for and cannot run here.
    """
    exact = sums_of(value.dtype)
    edits = [] if probe is None else probe.edits_at(site)
    look = _Look(value, points.to(exact), softmax_rows(_biased(scores, edits), exact))
    for edit in sorted(edits, key=lambda edit: isinstance(edit, Gain)):  # gains come last
        look = _edited(look, edit, levels, point_levels)
    if probe is not None and probe.wants(site):
        probe.keep(site, look.record(levels, point_levels, reference, probe.values))
    out = look.mixed(levels, point_levels)
    return out if probe is None else probe.tap(site, out)


class _Look(NamedTuple):
    """What is sampled."""

    value: Tensor  # [B, S, h, d]
    points: Tensor  # [B, Q, h, P, 2]
    weights: Tensor  # [B, Q, h, P]
    key_gain: Tensor | None = None  # [G, S]
    key_group: Tensor | None = None  # broadcasts to [B, Q, h, P]

    def mixed(self, levels: Sequence[Level], point_levels: Sequence[int]) -> Tensor:
        """[B, Q, h*d]; points whose keys have different gains are sampled apart and added up."""
        value, points, weights, key_gain, key_group = self
        if key_gain is None or key_group is None:
            return run_engine(value, points, weights, levels, point_levels)
        parts = []
        for group, gain in enumerate(key_gain.to(value)):
            share = weights if len(key_gain) == 1 else weights * (key_group == group)
            parts.append(run_engine(value * gain[:, None, None], points, share, levels, point_levels))
        return torch.stack(parts).sum(0)

    def record(
        self, levels: Sequence[Level], point_levels: Sequence[int], reference: Tensor, values: bool
    ) -> DeformableRecord:
        return DeformableRecord(
            points=self.points.detach().transpose(1, 2),
            weights=self.weights.detach().transpose(1, 2),
            value=self.value.detach().transpose(1, 2) if values else None,
            point_levels=tuple(point_levels),
            levels=tuple(levels),
            reference=reference.detach(),
            key_gain=self.key_gain,
            key_group=None if self.key_group is None else self.key_group.transpose(1, 2),
        )


def _biased(scores: Tensor, edits: Sequence[Edit]) -> Tensor:
    b, q, h, p = scores.shape
    for edit in edits:
        if isinstance(edit, Bias):
            scores = scores + broadcast_scores(edit, (b, h, q, p)).expand(b, h, q, p).transpose(1, 2).to(
                scores
            )
    return scores


def _edited(look: _Look, edit: Edit, levels: Sequence[Level], point_levels: Sequence[int]) -> _Look:
    """After the softmax: swaps, and gains on the weights or on the keys."""
    match edit:
        case Swap():
            kept = {"value": look.value, "points": look.points, "weights": look.weights}
            new = swapped(edit, {name: x.transpose(1, 2) for name, x in kept.items()})
            return look._replace(**{edit.what: new.transpose(1, 2)})
        case Gain(keys=None):
            factor = torch.where(_crossing(edit, look, levels, point_levels), edit.factor, 1.0)
            return look._replace(weights=look.weights * factor.to(look.weights))
        case Gain():
            return _with_key_gain(look, edit, levels, point_levels)
    return look


def _crossing(edit: Gain, look: _Look, levels: Sequence[Level], point_levels: Sequence[int]) -> Tensor:
    """True at the weights where the named heads, queries, points and levels cross: broadcasts to [B, Q, h, P]."""
    named = {1: ("query", edit.queries), 2: ("head", edit.heads), 3: ("point", edit.points)}
    chosen = crossing(edit, named, look.weights.shape)
    if edit.levels is None:
        return chosen
    of_level = crossing(edit, {0: ("level", edit.levels)}, (len(levels),))
    return chosen & of_level[list(point_levels)]


def _with_key_gain(look: _Look, edit: Gain, levels: Sequence[Level], point_levels: Sequence[int]) -> _Look:
    """A gain on tokens, for all points or for some: those become a group whose keys have a gain of their own."""
    tokens = look.value.shape[1]
    at_keys = crossing(edit, {0: ("key", edit.keys)}, (tokens,))
    gain = torch.where(at_keys, edit.factor, 1.0).to(look.weights)  # [S]
    chosen = _crossing(edit, look, levels, point_levels).to(look.weights.device)
    old = gain.new_ones(1, tokens) if look.key_gain is None else look.key_gain  # [G, S]
    group = torch.zeros_like(chosen, dtype=torch.long) if look.key_group is None else look.key_group
    if bool(chosen.all()):
        return look._replace(key_gain=old * gain, key_group=group)
    return look._replace(key_gain=torch.cat([old, old * gain]), key_group=group + len(old) * chosen)
