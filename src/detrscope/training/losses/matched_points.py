"""Masks of matched pairs at random points, of every decoder layer and of the proposals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detrscope.training.losses.query_sets import QuerySet
from detrscope.training.mask_points import (
    has_mask,
    masks_of_pairs,
    matched_mask_logits,
    sample_points,
    uncertain_points,
)
from detrscope.training.matcher import in_float32


@dataclass(frozen=True)
class PointMasks:
    """Predicted masks beside those of the ground truth at some points, of the matched pairs of every layer."""

    logits: Tensor  # [N, P, S]
    masks: Tensor  # [N, P, S] 0 or 1
    known: Tensor  # [N, P] 0 where the object has no mask, so that the pair takes no part


def match_mask_points(query_set: QuerySet) -> PointMasks | None:
    """Draw points for the masks of the matched pairs of every layer; None where masks are no products."""
    factors, matches, targets = query_set.outputs.mask_factors, query_set.matches, query_set.targets
    if factors is None:
        return None
    known = torch.cat([has_mask(target) for target in targets]).to(torch.float32)  # [M of all images]
    logits, masks = [], []
    for row, (queries, objects) in enumerate(zip(matches.queries, matches.targets, strict=True)):
        whole = in_float32(matched_mask_logits(factors, row, matches.images, queries))  # [P, h, w]
        with torch.no_grad():
            points = uncertain_points(whole)
            masks.append(masks_of_pairs(factors, targets, matches.images, objects, points).to(whole.dtype))
        logits.append(sample_points(whole[:, None], points)[:, 0])
    return PointMasks(torch.stack(logits), torch.stack(masks), known[matches.targets])
