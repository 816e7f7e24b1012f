"""Which query answers for which box: bipartite matching (DETR, arXiv:2005.12872, section 3.1, equation 1).

The cost is built per image and never across images, for every decoder layer at once, and travels to the CPU
in one transfer, since that is where the assignment is solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.types import Outputs, Target
from detrscope.training.iou import iou_and_giou
from detrscope.training.nonfinite import NonFinite


@dataclass(frozen=True)
class Matches:
    """Pairs of query and box. Every layer has the same number of pairs per image: min(Q, M)."""

    images: Tensor  # [P] int64, row in the batch; the same for every layer
    queries: Tensor  # [N, P] int64
    targets: Tensor  # [N, P] int64, index into the boxes of all images, concatenated


class ClassCost(Protocol):
    """What it costs a query to take a class; lower is better."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cost of each label for each query: logits [N, B, Q, K], labels [B, M] -> [N, B, M, Q]."""
        ...


@dataclass(frozen=True)
class SoftmaxCost:
    """Minus the probability of the class (DETR, equation 2)."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cost of each label for each query: logits [N, B, Q, K], labels [B, M] -> [N, B, M, Q]."""
        probabilities = logits.softmax(-1).transpose(-1, -2)  # [N, B, K, Q]
        return -_rows_of(probabilities, labels)  # [N, B, M, Q]


@dataclass(frozen=True)
class Matcher:
    """The cheapest one-to-one assignment of boxes to queries, for each image and decoder layer."""

    class_cost: ClassCost
    class_weight: float = 1.0
    box_weight: float = 5.0  # of the L1 distance of 0..1 centre-and-size boxes
    giou_weight: float = 2.0

    @torch.no_grad()
    def __call__(self, outputs: Outputs, targets: Sequence[Target]) -> Matches:
        """Match every layer's predictions with the boxes of their image.

        Args:
            outputs: predictions, logits [N, B, Q, K] and boxes [N, B, Q, 4].
            targets: the truth of each of the B images, on the same device.

        Raises:
            NonFinite: a cost is NaN or infinite; the layers and images are named.
        """
        counts = [len(target.labels) for target in targets]
        cost = self.cost(outputs, targets).cpu().numpy()  # [N, B, M, Q]; the one wait for the device
        _refuse_nonfinite(cost, counts)
        layers = len(cost)
        images = [np.full(min(m, cost.shape[-1]), b) for b, m in enumerate(counts)]
        first = np.cumsum([0, *counts])  # where each image's boxes begin
        queries: list[list[np.ndarray]] = [[] for _ in range(layers)]
        chosen: list[list[np.ndarray]] = [[] for _ in range(layers)]
        for n in range(layers):
            for b, m in enumerate(counts):
                target, query = linear_sum_assignment(cost[n, b, :m])
                queries[n].append(query)
                chosen[n].append(target + first[b])
        rows = [images, *queries, *chosen]
        table = np.stack([np.concatenate(row) for row in rows]).astype(np.int64)  # [1 + 2N, P]
        # one transfer back
        on_device = torch.from_numpy(table).to(outputs.logits.device, non_blocking=True)
        return Matches(on_device[0], on_device[1 : layers + 1], on_device[layers + 1 :])

    def cost(self, outputs: Outputs, targets: Sequence[Target]) -> Tensor:
        """The matching cost of each box and query, [N, B, M, Q]; rows beyond an image's boxes are void."""
        labels = pad_sequence([t.labels for t in targets], batch_first=True)  # [B, M]
        boxes = pad_sequence([t.boxes_cxcywh for t in targets], batch_first=True).float()  # [B, M, 4]
        found = outputs.boxes_cxcywh.float()[:, :, None]  # [N, B, 1, Q, 4]
        wanted = boxes[:, :, None]  # [B, M, 1, 4]
        classes = self.class_cost(outputs.logits.float(), labels)  # [N, B, M, Q]
        distance = torch.zeros_like(classes)
        for a, b in zip(found.unbind(-1), wanted.unbind(-1), strict=True):  # no [N, B, M, Q, 4] is ever made
            distance += (a - b).abs_()
        _, giou = iou_and_giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))
        return (
            classes.mul_(self.class_weight)
            .add_(distance, alpha=self.box_weight)
            .sub_(giou, alpha=self.giou_weight)
        )


def _rows_of(table: Tensor, labels: Tensor) -> Tensor:
    """The rows of the classes that are there: [N, B, K, Q], [B, M] -> [N, B, M, Q]."""
    layers, images, _, queries = table.shape
    index = labels[None, :, :, None].expand(layers, images, labels.shape[1], queries)
    return table.gather(2, index)


def _refuse_nonfinite(cost: np.ndarray, counts: Sequence[int]) -> None:
    """Stop where the assignment would fail, saying where the numbers went wrong. cost [N, B, M, Q]."""
    real = np.arange(cost.shape[2]) < np.asarray(counts)[:, None]  # [B, M] rows that are boxes
    bad = (~np.isfinite(cost)).any(axis=-1) & real  # [N, B, M]
    if bad.any():
        layers, images, _ = np.nonzero(bad)
        where = ", ".join(str(n) for n in np.unique(layers))
        raise NonFinite(f"matching cost of decoder layer {where}", rows=np.unique(images).tolist())
