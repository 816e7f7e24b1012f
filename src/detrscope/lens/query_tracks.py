"""Queries followed over the moments of training, so that a panel of a film stays with its object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.model_card import Scoring
from detrscope.core.snapshot import ProbeSnapshot

BOX, GIOU, CLASS, ATTENTION = 5.0, 2.0, 2.0, 1.0
"""Weights of what two queries differ in: L1 of boxes, 1 - GIoU, half the L1 of class scores, half the L1 of rows.

The first three are the defaults of the matching costs in the published code of Deformable DETR (its main.py).
"""


def follow(looks: Sequence[ProbeSnapshot], scoring: Scoring, layer: int = -1) -> Tensor:
    """Which query continues which, from the last look back to the first.

    A model that picks its queries anew for every image and every state of its weights gives them other numbers each
    time, and one with learned queries may hand an object from one to another. Between two looks queries are assigned
    one to one so that boxes, class scores and attention change least in all.

    Args:
        looks: at one image, in the order of training, all with the same number n of kept queries.
        scoring: how logits become scores.
        layer: of the decoder.

    Returns:
        [T, n] int64: for each look and track the place among the look's kept queries. Track j is kept query j of
        the last look.
    """
    last = len(looks) - 1
    tracks = [torch.arange(len(looks[last].query_ids))]
    for index in range(last, 0, -1):
        cost = distance(looks[index], looks[index - 1], scoring, layer)  # [n later, n earlier]
        _, earlier = linear_sum_assignment(cost.numpy().astype(np.float64))
        tracks.append(torch.from_numpy(earlier)[tracks[-1]])
    return torch.stack(tracks[::-1])


def distance(a: ProbeSnapshot, b: ProbeSnapshot, scoring: Scoring, layer: int = -1) -> Tensor:
    """How much each query of one look differs from each of another: [n, m]."""
    boxes_a, boxes_b = a.boxes(layer), b.boxes(layer)
    return (
        BOX * torch.cdist(boxes_a, boxes_b, p=1)
        + GIOU * (1 - generalized_box_iou(cxcywh_to_xyxy(boxes_a), cxcywh_to_xyxy(boxes_b)))
        + CLASS / 2 * torch.cdist(a.scores(scoring, layer), b.scores(scoring, layer), p=1)
        + ATTENTION / 2 * torch.cdist(a.rows(layer), b.rows(layer), p=1)
    )
