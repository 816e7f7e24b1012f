"""From logits and 0..1 boxes to scored boxes in pixels. Set prediction needs no non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.classes import ClassTable
from detrscope.core.mask_pixels import WHOLE, enlarge_masks
from detrscope.core.model_card import ModelCard, Scoring
from detrscope.core.types import Detections, Outputs


@dataclass(frozen=True)
class Scored:
    """Predictions of one image, best first."""

    boxes_xyxy: Tensor  # [n, 4] pixels of the given size
    scores: Tensor  # [n]
    class_indices: Tensor  # [n]
    query_ids: Tensor  # [n]
    tiles_xyxy: Tensor | None = (
        None  # [n, 4] int64 pixels, of the tile that each was found in, where there are any
    )
    masks: Tensor | None = None  # [n, h, w] logits over the padded image, of models with a mask head
    extent: tuple[float, float] = WHOLE  # part of height and width of `masks` that is image, not padding

    def detections(
        self,
        classes: ClassTable,
        threshold: float | tuple[float, ...],
        *,
        height: int,
        width: int,
        source: str = "",
    ) -> Detections:
        """Return what scores at least `threshold`, with boxes clipped to an image of `height` x `width` pixels.

        A threshold for each class is a tuple in the order of the classes.
        """
        if isinstance(threshold, tuple):
            keep = self.scores >= self.scores.new_tensor(threshold)[self.class_indices]
        else:
            keep = self.scores >= threshold
        indices = self.class_indices[keep].tolist()
        limit = self.boxes_xyxy.new_tensor([width, height, width, height])
        return Detections(
            boxes_xyxy=self.boxes_xyxy[keep].clamp(min=0).minimum(limit).cpu(),
            scores=self.scores[keep].cpu(),
            labels=torch.tensor([classes.ids[i] for i in indices], dtype=torch.int64),
            names=tuple(classes.names[i] for i in indices),
            query_ids=self.query_ids[keep].cpu(),
            height=height,
            width=width,
            source=source,
            tiles_xyxy=None if self.tiles_xyxy is None else self.tiles_xyxy[keep].cpu(),
            masks=None if self.masks is None else enlarge_masks(self.masks[keep], self.extent, height, width),
        )


def class_scores(logits: Tensor, scoring: Scoring) -> Tensor:
    """Return the score of every class without "no object": logits [..., K] -> [..., classes]."""
    return logits.float().softmax(-1)[..., :-1] if scoring == "softmax" else logits.float().sigmoid()


def postprocess(
    outputs: Outputs, card: ModelCard, sizes: Sequence[tuple[int, int]], layer: int = -1
) -> list[Scored]:
    """Return one decoder layer's predictions as scored boxes.

    Softmax scores give every query its best class other than "no object" (DETR, section 3); sigmoid scores give the
    best pairs of query and class (Deformable DETR), as many as the card says, so that one query may appear twice.

    Args:
        outputs: predictions, logits [N, B, Q, K].
        card: how logits become scores, and how many pairs are kept.
        sizes: height and width of each original image, B of them.
        layer: decoder layer; the last one by default.

    Returns:
        One `Scored` per image, sorted by score; with masks where the layer is the last and the model predicts them.
    """
    all_scores = class_scores(outputs.logits[layer], card.scoring)  # [B, Q, classes]
    boxes = cxcywh_to_xyxy(outputs.boxes_cxcywh[layer].float())  # [B, Q, 4]
    if card.scoring == "softmax":
        scores, classes = all_scores.max(-1)  # [B, Q]
        queries = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)  # [B, Q]
    else:
        flat = all_scores.flatten(1)  # [B, Q*K]
        scores, index = flat.topk(min(card.top, flat.shape[1]), dim=1)  # [B, n]
        queries, classes = index // all_scores.shape[2], index % all_scores.shape[2]  # [B, n]
    order = scores.argsort(dim=1, descending=True, stable=True)
    masks = outputs.masks if layer in (-1, len(outputs.logits) - 1) else None
    results = []
    for b, (height, width) in enumerate(sizes):
        q = queries[b, order[b]]
        pixels = scale_boxes(boxes[b, q], width, height)
        scored = Scored(pixels, scores[b, order[b]], classes[b, order[b]], q)
        if masks is not None:
            down, right = WHOLE if masks.extent is None else masks.extent[b].tolist()
            scored = replace(scored, masks=masks.logits[b, q], extent=(down, right))
        results.append(scored)
    return results
