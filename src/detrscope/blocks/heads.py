"""What turns decoder states into classes and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrscope.core.types import Outputs, States
from detrscope.ops.position import as_boxes, inverse_sigmoid


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
            return moved(boxes, self.box_heads[layer](content.to(dtype)))


class ReferenceHeads(nn.Module):
    """One class head and one box head for all decoder layers; boxes are predicted around reference points.

    Deformable DETR (arXiv:2010.04159, section 4.1, "bounding box prediction"): the head adds to the logit of the point,
    which stays the same from layer to layer.
    """

    def __init__(self, class_head: nn.Linear, box_head: nn.Module) -> None:
        super().__init__()
        self.class_head = class_head
        self.box_head = box_head

    def refine(self, layer: int, content: Tensor, reference: Tensor | None) -> Tensor | None:
        """The next layer starts from the same points."""
        return reference

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] and its boxes [N, B, Q, 4] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        assert states.boxes_cxcywh is not None, "these heads start from references"
        with torch.autocast(states.content.device.type, enabled=False):
            content = states.content.to(self.class_head.weight.dtype)  # boxes want more bits than bf16 has
            boxes = moved(states.boxes_cxcywh, self.box_head(content))
            return Outputs(self.class_head(content), boxes, states.proposals)


class LayeredHeads(nn.Module):
    """A class head and a box head for each decoder layer, which moves the point or box it started from.

    Iterative bounding box refinement as published (Deformable DETR, arXiv:2010.04159, appendix A.4).
    """

    def __init__(self, class_heads: Sequence[nn.Linear], box_heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)

    def refine(self, layer: int, content: Tensor, reference: Tensor | None) -> Tensor | None:
        """The boxes [B, Q, 4] that the next layer starts from; no gradient flows through them."""
        assert reference is not None, "these heads refine references"
        with torch.no_grad(), torch.autocast(content.device.type, enabled=False):
            return moved(as_boxes(reference), self.box_heads[layer](content.to(self._dtype)))

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] and its boxes [N, B, Q, 4] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        assert states.boxes_cxcywh is not None, "these heads refine references"
        with torch.autocast(states.content.device.type, enabled=False):
            content = states.content.to(self._dtype)
            logits = [head(x) for head, x in zip(self.class_heads, content, strict=True)]
            deltas = [head(x) for head, x in zip(self.box_heads, content, strict=True)]
            boxes = moved(states.boxes_cxcywh, torch.stack(deltas))
            return Outputs(torch.stack(logits), boxes, states.proposals)

    @property
    def _dtype(self) -> torch.dtype:
        return self.class_heads[0].get_parameter("weight").dtype  # boxes want more bits than bf16 has


def moved(boxes: Tensor, delta: Tensor) -> Tensor:
    """Boxes in 0..1 whose logits a head changes, in the head's type."""
    return (delta + inverse_sigmoid(boxes.to(delta.dtype))).sigmoid()
