"""Prediction heads: decoder states to classes and boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.layers import MLP, apply_layer_in_float32
from detrscope.core.types import EdgeDistributions, EdgeEstimate, Outputs, States
from detrscope.ops.edge_distributions import boxes_from_edges, edge_steps
from detrscope.ops.position import inverse_sigmoid, position_as_box


class SetHeads(nn.Module):
    """One class head and one box head for all decoder layers (DETR, section 3.2).

    Where the decoder has references, boxes are predicted relative to them (Deformable DETR, arXiv:2010.04159, section
    4.1, "bounding box prediction"); they stay the same from layer to layer.
    """

    def __init__(self, class_head: nn.Linear, box_head: nn.Module) -> None:
        super().__init__()
        self.class_head = class_head
        self.box_head = box_head

    def refine(self, layer: int, content: Tensor, reference: Tensor | None) -> Tensor | None:
        """Return the reference [B, Q, 4] unchanged."""
        return reference

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        boxes = apply_layer_in_float32(self.box_head, states.content)
        boxes = (
            boxes.sigmoid() if states.boxes_cxcywh is None else add_box_offsets(states.boxes_cxcywh, boxes)
        )
        return Outputs(apply_layer_in_float32(self.class_head, states.content), boxes, states.proposals)


class ScaledSetHeads(SetHeads):
    """The same with boxes that move by parts of their reference's size and multiply it (LW-DETR, arXiv:2406.03459)."""

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] and its boxes [N, B, Q, 4] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        assert states.boxes_cxcywh is not None, "these heads refine references"
        boxes = scale_box_by_offsets(
            states.boxes_cxcywh, apply_layer_in_float32(self.box_head, states.content)
        )
        return Outputs(apply_layer_in_float32(self.class_head, states.content), boxes, states.proposals)


class BoxRefinement(nn.Module, ABC):
    """Base of heads with a box head per decoder layer, which moves the layer's reference.

    Iterative bounding box refinement (Deformable DETR, arXiv:2010.04159, section 4.1 and appendix A.4).
    """

    box_heads: nn.ModuleList

    @abstractmethod
    def logits(self, content: Tensor) -> Tensor:
        """Content [N, B, Q, D] -> logits [N, B, Q, K]."""

    def refine(self, layer: int, content: Tensor, reference: Tensor | None) -> Tensor | None:
        """Return the boxes [B, Q, 4] that the next layer starts from; no gradient flows through them."""
        assert reference is not None, "these heads refine references"
        with torch.no_grad():
            return add_box_offsets(
                position_as_box(reference), apply_layer_in_float32(self.box_heads[layer], content)
            )

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] and its boxes [N, B, Q, 4] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        assert states.boxes_cxcywh is not None, "these heads refine references"
        boxes = add_box_offsets(states.boxes_cxcywh, apply_layerwise(self.box_heads, states.content))
        return Outputs(self.logits(states.content), boxes, states.proposals)


class RefiningHeads(BoxRefinement):
    """One class head for all decoder layers, a box head per layer."""

    def __init__(self, class_head: nn.Linear, box_heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.class_head = class_head
        self.box_heads = nn.ModuleList(box_heads)

    def logits(self, content: Tensor) -> Tensor:
        """Content [N, B, Q, D] -> logits [N, B, Q, K]."""
        return apply_layer_in_float32(self.class_head, content)


class LayeredHeads(BoxRefinement):
    """A class head and a box head per decoder layer, as Deformable DETR is published with refinement."""

    def __init__(self, class_heads: Sequence[nn.Linear], box_heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.class_heads = nn.ModuleList(class_heads)
        self.box_heads = nn.ModuleList(box_heads)

    def logits(self, content: Tensor) -> Tensor:
        """Content [N, B, Q, D] -> logits [N, B, Q, K]."""
        return apply_layerwise(self.class_heads, content)


class ForwardTwiceHeads(LayeredHeads):
    """The same, trained so that a layer's boxes teach the layer before, too.

    "Look forward twice" of DINO (arXiv:2203.03605, section 3.5): the reference that a layer refines has a gradient in
    the loss, though not in the decoder. The numbers are those of the base.
    """

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] and its boxes [N, B, Q, 4] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        if not self.training:
            return super().forward(states)
        assert states.boxes_cxcywh is not None, "these heads refine references"
        deltas = apply_layerwise(self.box_heads, states.content)
        once = add_box_offsets(states.boxes_cxcywh, deltas)
        references = torch.cat([states.boxes_cxcywh[:1].to(once.dtype), once[:-1]])
        return Outputs(self.logits(states.content), add_box_offsets(references, deltas), states.proposals)


class DistributionHeads(nn.Module):
    """Box heads that refine, layer by layer, distributions of the edges of one start box; a class head for each layer.

    D-FINE (arXiv:2410.13842, section 4.1). The class logits rise with the sharpness of the distributions, which tells
    how well a box is located (section 5.1, "location quality estimator").

    Args:
        start_head: [B, Q, D] -> [B, Q, 4], moves the first layer's references to the start boxes.
        box_heads: of each layer, or one of all, [B, Q, D] -> [B, Q, 4 * (R + 1)], changes of the logits.
        class_heads: of each layer, [B, Q, D] -> [B, Q, K].
        quality_heads: of each layer, [B, Q, 4 * (n + 1)] -> [B, Q, 1].
        scale: number of units of a step in a side of the start box.
        reach: the outermost steps are twice this many sides.
    """

    def __init__(
        self,
        start_head: nn.Module,
        box_heads: Sequence[nn.Module],
        class_heads: Sequence[nn.Linear],
        quality_heads: Sequence[MLP],
        scale: float,
        reach: float,
    ) -> None:
        super().__init__()
        self.start_head = start_head
        self.box_heads = nn.ModuleList(box_heads)
        self.class_heads = nn.ModuleList(class_heads)
        self.quality_heads = nn.ModuleList(quality_heads)
        self.register_buffer("scale", torch.tensor([scale]))
        self.register_buffer("reach", torch.tensor([reach]))

    scale: Tensor
    reach: Tensor

    def refine(self, layer: int, content: Tensor, before: EdgeEstimate | Tensor) -> EdgeEstimate:
        """Return the boxes after a layer, from states [B, Q, D]; the next layer's references get no gradient."""
        box_head = self.box_heads[min(layer, len(self.box_heads) - 1)]
        if isinstance(before, Tensor):
            start = add_box_offsets(before, apply_layer_in_float32(self.start_head, content))
            logits = apply_layer_in_float32(box_head, content)
        else:
            start = before.start_cxcywh
            logits = apply_layer_in_float32(box_head, content + before.content.detach())
        logits = logits.reshape(*logits.shape[:2], 4, -1)  # [B, Q, 4, R + 1]
        if not isinstance(before, Tensor):
            logits = logits + before.logits
        probabilities = logits.softmax(-1)  # [B, Q, 4, R + 1]
        steps = edge_steps(logits.shape[-1], self.scale, self.reach).to(logits.dtype)
        mean = F.linear(probabilities, steps[None])[..., 0]  # [B, Q, 4]
        boxes = boxes_from_edges(start.detach(), mean, self.scale.to(logits.dtype))
        quality = cast(MLP, self.quality_heads[layer])
        best = probabilities.topk(quality.width // 4 - 1, dim=-1).values  # [B, Q, 4, n]
        sharpness = torch.cat([best, best.mean(-1, keepdim=True)], dim=-1).flatten(-2)
        return EdgeEstimate(boxes, start, logits, apply_layer_in_float32(quality, sharpness), content)

    def forward(self, states: States) -> Outputs:
        """Content [N, B, Q, D] and its estimates -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        estimates = states.estimates
        scores = apply_layerwise(self.class_heads, states.content)
        logits = torch.stack([estimate.logits for estimate in estimates])
        distributions = EdgeDistributions(
            logits=logits,
            start_cxcywh=estimates[0].start_cxcywh,
            start_logits=scores[0],
            steps=edge_steps(logits.shape[-1], self.scale, self.reach).to(logits.dtype),
            scale=self.scale.to(logits.dtype),
        )
        return Outputs(
            scores + torch.stack([estimate.quality for estimate in estimates]),
            torch.stack([estimate.boxes_cxcywh for estimate in estimates]),
            states.proposals,
            distributions,
        )


def apply_layerwise(heads: nn.ModuleList, content: Tensor) -> Tensor:
    """Apply each layer's own head to its state: [N, B, Q, D] -> [N, B, Q, n]."""
    return torch.stack([apply_layer_in_float32(head, x) for head, x in zip(heads, content, strict=True)])


def add_box_offsets(boxes: Tensor, delta: Tensor) -> Tensor:
    """Add a head's output to the logits of boxes in 0..1: [..., 4] in the type of `delta`."""
    return (delta + inverse_sigmoid(boxes.to(delta.dtype))).sigmoid()


def scale_box_by_offsets(boxes: Tensor, delta: Tensor) -> Tensor:
    """Move boxes_cxcywh [..., 4] by parts of their size, which is scaled exponentially: [..., 4] like `delta`.

    The parametrisation of R-CNN (arXiv:1311.2524, appendix C); boxes may leave 0..1.
    """
    centre, size = boxes.to(delta.dtype).chunk(2, dim=-1)
    return torch.cat([centre + delta[..., :2] * size, delta[..., 2:].exp() * size], dim=-1)
