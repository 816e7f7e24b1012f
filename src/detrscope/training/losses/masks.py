"""Mask terms of the loss on all pixels: focal and Dice loss of matched pairs (DETR, section 4.4 and appendix A.2).

Only the last decoder layer of the model's own queries has masks. They are enlarged to the size of the images and
compared with the ground truth there, padding included, as the published code does. A pair whose object has no mask, or
none of whose pixels is left in the image, takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.types import Masks, Target
from detrscope.training.mask_points import has_mask
from detrscope.training.matcher import Matches, in_float32


@dataclass(frozen=True)
class MatchedMasks:
    """Predicted masks beside those of the ground truth, of the matched pairs that have both."""

    logits: Tensor  # [P, H*W]
    masks: Tensor  # [P, H*W] 0 or 1
    boxes: Tensor  # [] number of ground-truth boxes, which terms are divided by


class MaskTerm(Protocol):
    """One term of the loss of masks."""

    @property
    def name(self) -> str:
        """Name in the metrics, such as `loss_mask`."""
        ...

    @property
    def weight(self) -> float:
        """Factor of the term in the loss."""
        ...

    def __call__(self, matched: MatchedMasks) -> Tensor:
        """Return the term, [], normalised but not weighted."""
        ...


@dataclass(frozen=True, kw_only=True)
class MaskFocal:
    """Focal loss of each pixel (arXiv:1708.02002, equation 5), the mean of a mask, divided by the number of boxes."""

    name: str = "loss_mask"
    weight: float = 1.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, matched: MatchedMasks) -> Tensor:
        """Return the loss, []."""
        inside = matched.masks > 0
        p = matched.logits.sigmoid()
        missing = torch.where(inside, 1 - p, p)
        alpha = torch.where(inside, self.alpha, 1 - self.alpha)
        each = F.binary_cross_entropy_with_logits(matched.logits, matched.masks, reduction="none")
        return (alpha * missing**self.gamma * each).mean(1).sum() / matched.boxes


@dataclass(frozen=True, kw_only=True)
class MaskDice:
    """One minus the Dice coefficient of each mask (V-Net, arXiv:1606.04797, section 3), over the number of boxes."""

    name: str = "loss_dice"
    weight: float = 1.0

    def __call__(self, matched: MatchedMasks) -> Tensor:
        """Return the loss, []."""
        p = matched.logits.sigmoid()
        both = 2 * (p * matched.masks).sum(1) + 1  # [P]
        sizes = p.sum(1) + matched.masks.sum(1) + 1
        return (1 - both / sizes).sum() / matched.boxes


def match_masks(predicted: Masks, targets: Sequence[Target], matches: Matches, boxes: Tensor) -> MatchedMasks:
    """Gather the masks of the matched pairs of the last layer.

    Args:
        predicted: of the model's own queries, logits [B, Q, h, w].
        targets: ground truth of each of the B images.
        matches: of the model's own queries.
        boxes: [] number of ground-truth boxes.
    """
    sizes = [target.masks.shape[1:] for target in targets if target.masks is not None]
    height, width = (max(side) for side in zip(*sizes, strict=True)) if sizes else (1, 1)
    device = predicted.logits.device
    present = torch.cat([has_mask(target) for target in targets])  # [M of all images]
    kept = present[matches.targets[-1]]
    images, queries, chosen = matches.images[kept], matches.queries[-1][kept], matches.targets[-1][kept]
    small = in_float32(predicted.logits[images, queries])  # [P, h, w]
    if not len(images):
        return MatchedMasks(small.flatten(1), small.flatten(1), boxes)
    logits = F.interpolate(small[:, None], size=(height, width), mode="bilinear")[:, 0]
    first = torch.tensor([0, *(len(t.labels) for t in targets)], device=device).cumsum(0)
    masks = logits.new_zeros(logits.shape)
    for row, (image, target) in enumerate(zip(images.tolist(), chosen.tolist(), strict=True)):
        own = targets[image].masks
        assert own is not None
        mask = own[target - int(first[image])]
        masks[row, : mask.shape[0], : mask.shape[1]] = mask
    return MatchedMasks(logits.flatten(1), masks.flatten(1), boxes)
