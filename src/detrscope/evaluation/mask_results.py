"""Masks as results: run lengths for AP, and the segments of a panoptic segmentation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detrscope.core.mask_pixels import enlarge_logits, enlarge_masks
from detrscope.core.postprocess import Scored
from detrscope.data.coco_masks import encode_mask

CONFIDENT = 0.85  # score of the queries that share the pixels of an image (DETR, published code)
SMALLEST = 4  # pixels; segments of no more are left out


class Segment(NamedTuple):
    """One segment of an image."""

    class_index: int
    score: float
    mask: Tensor  # bool [H, W]; no two segments of an image overlap


def encode_masks(scored: Scored, height: int, width: int) -> list[dict[str, Any]]:
    """Return the mask of each prediction as compressed run lengths of the original image."""
    assert scored.masks is not None
    encoded = []
    for logits in torch.split(scored.masks, 8):  # a hundred masks of a large image would take gigabytes
        masks = enlarge_masks(logits, scored.extent, height, width)
        encoded += [encode_mask(mask.numpy()) for mask in masks]
    return encoded


def panoptic_segments(
    scored: Scored, height: int, width: int, stuff: Collection[int], minimum_score: float = CONFIDENT
) -> list[Segment]:
    """Return the segments that an image divides into: each pixel goes to the mask of the highest logit.

    As DETR's published code: masks of one stuff class are one segment, and segments of a few pixels leave theirs to
    the others.

    Args:
        scored: predictions with masks, best first.
        height: of the original image.
        width: the same.
        stuff: class indices without instances.
        minimum_score: least score of a mask that takes part.
    """
    assert scored.masks is not None
    kept: list[int] = []
    queries: set[int] = set()
    for row in (scored.scores >= minimum_score).nonzero()[:, 0].tolist():
        query = int(scored.query_ids[row])
        if query not in queries:  # with sigmoid scores a query may have several classes: its best
            queries.add(query)
            kept.append(row)
    while kept:
        owner = _owners(scored, kept, height, width)  # [H, W] index into kept
        segments = _merged(scored, kept, owner, stuff)
        small = [row for row, (_, area) in segments.items() if area <= SMALLEST]
        if not small:
            return [
                Segment(int(scored.class_indices[row]), float(scored.scores[row]), mask)
                for row, (mask, _) in segments.items()
            ]
        kept = [row for row in kept if row not in small]
    return []


def _owners(scored: Scored, kept: list[int], height: int, width: int) -> Tensor:
    """Return whose logit is the highest at each pixel; one mask is enlarged at a time."""
    assert scored.masks is not None
    best = torch.full((height, width), -torch.inf)
    owner = torch.zeros(height, width, dtype=torch.int64)
    for index, row in enumerate(kept):
        logits = enlarge_logits(scored.masks[row : row + 1], scored.extent, height, width)[0].cpu()
        owner[logits > best] = index
        best = torch.maximum(best, logits)
    return owner


def _merged(
    scored: Scored, kept: list[int], owner: Tensor, stuff: Collection[int]
) -> dict[int, tuple[Tensor, int]]:
    """Return mask and area of each segment by its first row; the rows of one stuff class are one segment."""
    first: dict[int, int] = {}
    segments: dict[int, tuple[Tensor, int]] = {}
    for index, row in enumerate(kept):
        kind = int(scored.class_indices[row])
        leader = first.setdefault(kind, row) if kind in stuff else row
        mask = owner == index
        if leader in segments:
            mask = mask | segments[leader][0]
        segments[leader] = (mask, int(mask.sum()))
    return segments
