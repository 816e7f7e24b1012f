"""What turns decoder states into classes and boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrscope.core.types import Outputs, States
from detrscope.ops.position import inverse_sigmoid


class SetHeads(nn.Module):
    """A linear class head and a box head shared by all decoder layers, boxes predicted outright (DETR, section 3.2)."""

    def __init__(self, class_head: nn.Linear, box_head: nn.Module) -> None:
        super().__init__()
        self.class_head = class_head
        self.box_head = box_head

    def refine(self, layer: int, content: Tensor, boxes: Tensor | None) -> Tensor | None:
        """These heads start from no reference, so there is nothing for the next layer to start from."""
        return boxes

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4] in 0..1."""
        with torch.autocast(states.content.device.type, enabled=False):
            content = states.content.to(self.class_head.weight.dtype)  # boxes want more bits than bf16 has
            return Outputs(logits=self.class_head(content), boxes_cxcywh=self.box_head(content).sigmoid())


class RefiningHeads(nn.Module):
    """One class head for all decoder layers and a box head for each: every layer moves the box it started from.

    Iterative bounding box refinement (Deformable DETR, arXiv:2010.04159, section 4 and appendix A.4).
    """

    def __init__(self, class_head: nn.Linear, box_heads: list[nn.Module]) -> None:
        super().__init__()
        self.class_head = class_head
        self.box_heads = nn.ModuleList(box_heads)

    def refine(self, layer: int, content: Tensor, boxes: Tensor | None) -> Tensor | None:
        """The boxes that the next layer starts from; no gradient flows through them. [B, Q, 4] -> [B, Q, 4]."""
        assert boxes is not None, "these heads refine reference boxes"
        with torch.no_grad():
            return self._move(layer, content, boxes)

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] and its boxes [N, B, Q, 4] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        assert states.boxes_cxcywh is not None, "these heads refine reference boxes"
        boxes = [
            self._move(n, *pair)
            for n, pair in enumerate(zip(states.content, states.boxes_cxcywh, strict=True))
        ]
        with torch.autocast(states.content.device.type, enabled=False):
            logits = self.class_head(states.content.to(self.class_head.weight.dtype))
        return Outputs(logits, torch.stack(boxes), states.proposals)

    def _move(self, layer: int, content: Tensor, boxes: Tensor) -> Tensor:
        with torch.autocast(content.device.type, enabled=False):
            dtype = self.class_head.weight.dtype  # boxes want more bits than bf16 has
            return (self.box_heads[layer](content.to(dtype)) + inverse_sigmoid(boxes.to(dtype))).sigmoid()
