"""What turns decoder states into classes and boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrscope.core.types import Outputs, States


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
