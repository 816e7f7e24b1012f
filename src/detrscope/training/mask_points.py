"""Masks at random points: what RF-DETR's losses and matching cost read of masks that are products.

Points are x, y in 0..1 of the padded image. Predictions are read between pixels, bilinearly; ground truth is that of
the pixel (PointRend, arXiv:1912.08193, section 3; Mask2Former, arXiv:2112.01527, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrscope.core.types import MaskFactors, Target

PIXELS_OF_A_POINT = 16  # of a predicted mask
CANDIDATES = 3  # times as many points are drawn as are used
UNCERTAIN = 0.75  # of the points are the most uncertain candidates, the rest are drawn anew


@dataclass(frozen=True)
class MaskCost:
    """Cost of matching a query with an object's mask, at points drawn for the whole batch; lower is better.

    Attributes:
        mask: weight of the cross-entropy.
        dice: weight of one minus the Dice coefficient.
    """

    mask: float
    dice: float

    def __call__(self, factors: MaskFactors, targets: Sequence[Target]) -> Tensor:
        """Return the cost of each object and query, [N, B, M, Q]; objects without a mask cost 0."""
        height, width = factors.pixels[0].shape[2:]
        count = max(1, height * width // PIXELS_OF_A_POINT)
        points = _random_points(1, count, factors.queries.device)  # [1, P, 2]
        inside = pad_sequence(
            [
                masks_at_points(target, points.expand(len(target.labels), -1, -1), _extent(factors, b))
                for b, target in enumerate(targets)
            ],
            batch_first=True,
        ).to(torch.promote_types(factors.queries.dtype, torch.float32))  # [B, M, P]
        known = pad_sequence([has_mask(target) for target in targets], batch_first=True)  # [B, M]
        rows = []
        for queries, pixels in zip(factors.queries, factors.pixels, strict=True):
            sampled = sample_points(pixels, points.expand(len(pixels), -1, -1))  # [B, D, P]
            logits = queries @ sampled + factors.bias  # [B, Q, P]
            rows.append(self._of_pairs(logits.to(inside.dtype), inside) * known[..., None])
        return torch.stack(rows)

    def _of_pairs(self, logits: Tensor, inside: Tensor) -> Tensor:
        """Return the cost of logits [B, Q, P] and masks [B, M, P]: [B, M, Q]."""
        p = logits.sigmoid()
        entropy = F.softplus(logits).mean(-1)[:, None] - inside @ logits.mT / logits.shape[-1]
        both = 2 * (inside @ p.mT) + 1
        sizes = inside.sum(-1)[..., None] + p.sum(-1)[:, None] + 1
        return self.mask * entropy + self.dice * (1 - both / sizes)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps [B, C, h, w] at points [B, P, 2], bilinearly; beyond the outer pixels' centres, theirs. [B, C, P]."""
    grid = (2 * points - 1)[:, :, None].to(maps.dtype)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[..., 0]


def masks_at_points(target: Target, points: Tensor, extent: tuple[float, float]) -> Tensor:
    """Read the masks of M objects at points [M, P, 2] of each: bool [M, P], False outside the image.

    Args:
        target: ground truth of one image.
        points: x, y in 0..1 of the padded image.
        extent: part of height and width that is image.
    """
    return _masks_of_rows(target, torch.arange(len(points), device=points.device), points, extent)


def uncertain_points(logits: Tensor) -> Tensor:
    """Draw points for masks of logits [R, h, w], most of them where the mask's edge is: [R, P, 2]."""
    height, width = logits.shape[1:]
    count = max(1, height, height * width // PIXELS_OF_A_POINT)
    candidates = _random_points(len(logits), CANDIDATES * count, logits.device)
    uncertainty = -sample_points(logits[:, None], candidates)[:, 0].abs()  # [R, 3P]
    chosen = uncertainty.topk(int(UNCERTAIN * count), dim=1).indices
    edge = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    anywhere = _random_points(len(logits), count - edge.shape[1], logits.device)
    return torch.cat([edge, anywhere], dim=1)


def matched_mask_logits(factors: MaskFactors, row: int, images: Tensor, queries: Tensor) -> Tensor:
    """Return the whole masks of matched queries of one layer: [R, h, w].

    Args:
        factors: of all queries.
        row: the layer.
        images: [R] rows in the batch, in order.
        queries: [R] their queries.
    """
    pixels = factors.pixels[row]  # [B, D, h, w]
    features = factors.queries[row][images, queries]  # [R, D]
    counts = torch.bincount(images, minlength=len(pixels))
    first = counts.cumsum(0) - counts
    slots = torch.arange(len(images), device=images.device) - first[images]
    longest = int(counts.max()) if len(images) else 0
    padded = features.new_zeros(len(pixels), longest, features.shape[1])
    padded = padded.index_put((images, slots), features)  # [B, R', D]
    logits = padded @ pixels.flatten(2) + factors.bias  # [B, R', h*w]
    return logits[images, slots].reshape(len(images), *pixels.shape[2:])


def masks_of_pairs(
    factors: MaskFactors, targets: Sequence[Target], images: Tensor, objects: Tensor, points: Tensor
) -> Tensor:
    """Read the masks of the objects of matched pairs at points of each: float32 [R, P], 0 or 1.

    Args:
        factors: whose extents say where the images are.
        targets: ground truth of each of the B images.
        images: [R] rows in the batch, in order.
        objects: [R] indices into the objects of all images, concatenated.
        points: [R, P, 2].
    """
    counts = torch.bincount(images, minlength=len(targets)).tolist()
    parts, first = [], 0
    parted = torch.split(points, counts), torch.split(objects, counts)
    for b, (target, own, chosen) in enumerate(zip(targets, *parted, strict=True)):
        parts.append(_masks_of_rows(target, chosen - first, own, _extent(factors, b)))
        first += len(target.labels)
    return torch.cat(parts).to(torch.float32)


def has_mask(target: Target) -> Tensor:
    """Return which objects have a mask with any pixel in it: bool [M]."""
    if target.masks is None:
        return torch.zeros(len(target.labels), dtype=torch.bool, device=target.labels.device)
    return target.masks.flatten(1).any(1)


def _masks_of_rows(target: Target, rows: Tensor, points: Tensor, extent: tuple[float, float]) -> Tensor:
    if target.masks is None or not len(rows):
        return torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    height, width = target.masks.shape[1:]
    x = (points[..., 0] / extent[1] * width).floor().long()
    y = (points[..., 1] / extent[0] * height).floor().long()
    inside = (x < width) & (y < height)
    return target.masks[rows[:, None], y.clamp(0, height - 1), x.clamp(0, width - 1)] & inside


def _extent(factors: MaskFactors, image: int) -> tuple[float, float]:
    if factors.extent is None:
        return 1.0, 1.0
    height, width = factors.extent[image].tolist()
    return height, width


def _random_points(rows: int, count: int, device: torch.device) -> Tensor:
    return torch.rand(rows, count, 2, device=device)
