"""From logits and 0..1 boxes to scored boxes in pixels. No suppression: a set has no duplicates to remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.card import Scoring
from detrscope.core.types import Outputs

TOP = 100  # kept of query x class with sigmoid scores, as COCO's AP looks at 100 an image


@dataclass(frozen=True)
class Scored:
    """Predictions of one image, best first."""

    boxes_xyxy: Tensor  # [n, 4] pixels of the given size
    scores: Tensor  # [n]
    class_indices: Tensor  # [n]
    query_ids: Tensor  # [n]


def postprocess(outputs: Outputs, scoring: Scoring, sizes: Sequence[tuple[int, int]]) -> list[Scored]:
    """The last decoder layer's predictions as scored boxes.

    Softmax scores give every query its best class other than "no object" (DETR, section 3); sigmoid scores give the
    best `TOP` pairs of query and class (Deformable DETR), so that one query may appear twice.

    Args:
        outputs: predictions, logits [N, B, Q, K].
        scoring: how logits become scores.
        sizes: height and width of each original image, B of them.

    Returns:
        One `Scored` per image, sorted by score.
    """
    logits = outputs.logits[-1].float()  # [B, Q, K]
    boxes = cxcywh_to_xyxy(outputs.boxes_cxcywh[-1].float())  # [B, Q, 4]
    if scoring == "softmax":
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)  # [B, Q]
        queries = torch.arange(logits.shape[1], device=logits.device).expand_as(scores)  # [B, Q]
    else:
        flat = logits.sigmoid().flatten(1)  # [B, Q*K]
        scores, index = flat.topk(min(TOP, flat.shape[1]), dim=1)  # [B, n]
        queries, classes = index // logits.shape[2], index % logits.shape[2]  # [B, n]
    order = scores.argsort(dim=1, descending=True, stable=True)
    found = []
    for b, (height, width) in enumerate(sizes):
        q = queries[b, order[b]]
        pixels = scale_boxes(boxes[b, q], width, height)
        found.append(Scored(pixels, scores[b, order[b]], classes[b, order[b]], q))
    return found
