"""Queries tracked over the snapshots of a training run, so that a panel of a film stays with its object."""

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
"""Weights of the differences of two queries: L1 of boxes, 1 - GIoU, half the L1 of class scores, half the L1 of rows.

The first three are the defaults of the matching costs in the published code of Deformable DETR (its main.py).
"""


def follow(snapshots: Sequence[ProbeSnapshot], scoring: Scoring, layer: int = -1) -> Tensor:
    """Match the queries of consecutive snapshots, from the last back to the first.

    Query numbers are not stable over training: a two-stage model picks its queries anew each time, and one with learned
    queries may hand an object from one to another. Between two snapshots queries are assigned one to one so that boxes,
    class scores and attention change least in total.

    Args:
        snapshots: snapshots of one image, in the order of training, all with the same number n of recorded queries.
        scoring: how logits become scores.
        layer: decoder layer.

    Returns:
        [T, n] int64: for each snapshot and track the position among the snapshot's recorded queries. Track j is
        recorded query j of the last snapshot.
    """
    last = len(snapshots) - 1
    tracks = [torch.arange(len(snapshots[last].query_ids))]
    for index in range(last, 0, -1):
        cost = distance(snapshots[index], snapshots[index - 1], scoring, layer)  # [n later, n earlier]
        _, earlier = linear_sum_assignment(cost.numpy().astype(np.float64))
        tracks.append(torch.from_numpy(earlier)[tracks[-1]])
    return torch.stack(tracks[::-1])


def distance(a: ProbeSnapshot, b: ProbeSnapshot, scoring: Scoring, layer: int = -1) -> Tensor:
    """Return how much each query of one snapshot differs from each of another: [n, m]."""
    boxes_a, boxes_b = a.boxes(layer), b.boxes(layer)
    cost: Tensor = (
        BOX * torch.cdist(boxes_a, boxes_b, p=1)
        + GIOU * (1 - generalized_box_iou(cxcywh_to_xyxy(boxes_a), cxcywh_to_xyxy(boxes_b)))
        + CLASS / 2 * torch.cdist(a.scores(scoring, layer), b.scores(scoring, layer), p=1)
        + ATTENTION / 2 * torch.cdist(a.rows(layer), b.rows(layer), p=1)
    )
    return cost
