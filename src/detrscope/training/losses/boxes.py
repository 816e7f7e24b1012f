"""Box terms of the loss: L1 distance and generalised IoU of matched pairs (DETR, section 3.1, appendix A.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detrscope.training.losses.criterion import MatchedPredictions


@dataclass(frozen=True, kw_only=True)
class BoxL1:
    """L1 distance of centres and sizes, 0..1, divided by the number of pairs."""

    name: str = "loss_box"
    weight: float = 5.0

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer, [N]."""
        distance = (matched.boxes_cxcywh - matched.target_boxes_cxcywh).abs().sum((1, 2))  # [N]
        return distance / matched.pairs


@dataclass(frozen=True, kw_only=True)
class BoxGIoU:
    """One minus the generalised IoU, divided by the number of pairs."""

    name: str = "loss_giou"
    weight: float = 2.0

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer, [N]."""
        return (1 - matched.giou).sum(1) / matched.pairs
