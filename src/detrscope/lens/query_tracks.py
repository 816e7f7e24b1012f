"""Queries tracked over the snapshots of a training run, so that a panel of a film stays with its object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.snapshot import snapshot_prediction_layer
from detrscope.core.trace_data import TraceData

BOX, GIOU, CLASS, ATTENTION = 5.0, 2.0, 2.0, 1.0
"""Weights of the terms of `query_distance`: L1 of boxes, 1 - GIoU, half the L1 of class scores, half the L1 of rows.

The first three are the defaults of the matching costs in the published code of Deformable DETR (its main.py).
"""


def track_queries(traces: Sequence[TraceData], layer: int = -1) -> Tensor:
    """Return the query that continues each query of the last trace, back to the first trace.

    A model that picks its queries anew for every image and every state of its weights gives them other indices each
    time, and one with learned queries may hand an object from one to another. Between two traces queries are assigned
    one to one so that boxes, class scores and attention change least in total.

    Args:
        traces: traces of one image in the order of training, all with the same number n of queries.
        layer: decoder layer, the last by default.

    Returns:
        [T, n] int64: for each trace and track the index of the query. Track j is query j of the last trace.
    """
    tracks = [torch.arange(traces[-1].queries)]
    for index in range(len(traces) - 1, 0, -1):
        cost = query_distance(traces[index], traces[index - 1], layer)  # [n later, n earlier]
        _, earlier = linear_sum_assignment(cost.numpy().astype(np.float64))
        tracks.append(torch.from_numpy(earlier)[tracks[-1]])
    return torch.stack(tracks[::-1])


def query_distance(a: TraceData, b: TraceData, layer: int = -1) -> Tensor:
    """Return the distance of each query of one trace from each query of another: [n, m]."""
    (boxes_a, scores_a, rows_a), (boxes_b, scores_b, rows_b) = (_features(trace, layer) for trace in (a, b))
    distance: Tensor = (
        BOX * torch.cdist(boxes_a, boxes_b, p=1)
        + GIOU * (1 - generalized_box_iou(cxcywh_to_xyxy(boxes_a), cxcywh_to_xyxy(boxes_b)))
        + CLASS / 2 * torch.cdist(scores_a, scores_b, p=1)
        + ATTENTION / 2 * torch.cdist(rows_a, rows_b, p=1)
    )
    return distance


def _features(trace: TraceData, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes_cxcywh [n, 4], class scores [n, classes] and mean attention over the heads [n, S]."""
    predicted = snapshot_prediction_layer(trace, layer)
    rows = trace.record(trace.site("decoder.cross", layer)).rows()[0].float().mean(0)
    return trace.boxes_cxcywh[predicted], trace.scores(predicted), rows
