"""Match queries with boxes: one to one (DETR, arXiv:2005.12872, section 3.1, equation 1), or tokens many to a box.

The matching cost is built per image and never across images, for every decoder layer at once, and goes to the CPU
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
from detrscope.training.mask_points import MaskCost
from detrscope.training.nonfinite import NonFinite

EPS = 1e-8  # keeps the logarithms of the focal cost finite
MIDDLE = 0.3  # of the box's size on each side of its centre


@dataclass(frozen=True)
class Matches:
    """Pairs of query and box, as many in every layer."""

    images: Tensor  # [P] int64, row in the batch; the same for every layer
    queries: Tensor  # [N, P] int64
    targets: Tensor  # [N, P] int64, index into the boxes of all images, concatenated

    def repeated(self, layers: int) -> Matches:
        """Return pairs of one layer for several."""
        return Matches(self.images, self.queries.expand(layers, -1), self.targets.expand(layers, -1))


class ClassCost(Protocol):
    """Cost of matching a query with a box of some class; lower is better."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cost of each label for each query: logits [N, B, Q, K], labels [B, M] -> [N, B, M, Q]."""
        ...


@dataclass(frozen=True)
class SoftmaxCost:
    """Minus the probability of the class (DETR, equation 2)."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cost of each label for each query: logits [N, B, Q, K], labels [B, M] -> [N, B, M, Q]."""
        probabilities = logits.softmax(-1).transpose(-1, -2)  # [N, B, K, Q]
        layers, images, _, queries = probabilities.shape
        index = labels[None, :, :, None].expand(layers, images, labels.shape[1], queries)
        return -probabilities.gather(2, index)


@dataclass(frozen=True)
class FocalCost:
    """Focal loss as a positive minus focal loss as a negative (Deformable DETR, arXiv:2010.04159)."""

    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cost of each label for each query: logits [N, B, Q, K], labels [B, M] -> [N, B, M, Q]."""
        layers, images, queries, _ = logits.shape
        index = labels[None, :, None, :].expand(layers, images, queries, labels.shape[1])
        p = logits.gather(3, index).sigmoid().transpose(-1, -2)  # [N, B, M, Q]
        positive = self.alpha * (1 - p) ** self.gamma * -(p + EPS).log()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + EPS).log()
        return positive - negative


@dataclass(frozen=True)
class Matcher:
    """Minimum-cost one-to-one assignment of boxes to queries, per image and decoder layer."""

    class_cost: ClassCost
    class_weight: float = 1.0
    box_weight: float = 5.0  # of the L1 distance of 0..1 centre-and-size boxes
    giou_weight: float = 2.0
    mask_cost: MaskCost | None = None  # of models whose masks are products

    @torch.no_grad()
    def __call__(self, outputs: Outputs, targets: Sequence[Target]) -> Matches:
        """Match every layer's predictions with the boxes of their image, min(Q, M) pairs each.

        Args:
            outputs: predictions, logits [N, B, Q, K] and boxes [N, B, Q, 4].
            targets: ground truth of each of the B images, on the same device.

        Raises:
            NonFinite: a cost is NaN or infinite; the message names layers and images.
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
        on_device = torch.from_numpy(table).to(outputs.logits.device, non_blocking=True)
        return Matches(on_device[0], on_device[1 : layers + 1], on_device[layers + 1 :])

    def cost(self, outputs: Outputs, targets: Sequence[Target]) -> Tensor:
        """Return the cost of each box and query, [N, B, M, Q]; rows beyond an image's boxes are padding."""
        labels = pad_sequence([t.labels for t in targets], batch_first=True)  # [B, M]
        boxes = in_float32(pad_sequence([t.boxes_cxcywh for t in targets], batch_first=True))  # [B, M, 4]
        predicted = in_float32(outputs.boxes_cxcywh)[:, :, None]  # [N, B, 1, Q, 4]
        wanted = boxes[:, :, None]  # [B, M, 1, 4]
        classes = self.class_cost(in_float32(outputs.logits), labels)  # [N, B, M, Q]
        distance = torch.zeros_like(classes)
        for a, b in zip(
            predicted.unbind(-1), wanted.unbind(-1), strict=True
        ):  # no [N, B, M, Q, 4] is ever made
            distance += (a - b).abs_()
        _, giou = iou_and_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        cost = (
            classes.mul_(self.class_weight)
            .add_(distance, alpha=self.box_weight)
            .sub_(giou, alpha=self.giou_weight)
        )
        if self.mask_cost is None or outputs.mask_factors is None:
            return cost
        return cost + self.mask_cost(outputs.mask_factors, targets)


def in_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, for losses and costs; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def one_to_many(centres: Tensor, targets: Sequence[Target]) -> Matches:
    """Match tokens with boxes, many to one, in one layer.

    A token is matched with the box whose middle 60% its centre lies in, the smallest of several. Every box also gets
    its nearest token, so that small boxes are not left out.

    Args:
        centres: [B or 1, S, 2] centres of the tokens, x and y in 0..1.
        targets: ground truth of each of the B images.
    """
    images, tokens, boxes = [], [], []
    first = 0
    for b, target in enumerate(targets):
        count = len(target.labels)
        if count:
            points = centres[b if len(centres) > 1 else 0]  # [S, 2]
            centre, size = target.boxes_cxcywh[:, :2], target.boxes_cxcywh[:, 2:]  # [M, 2] each
            distance = (points[:, None] - centre).abs() / size.clamp(min=1e-6)  # [S, M, 2] in box sizes
            inside = distance.amax(-1) < MIDDLE  # [S, M]
            inside[distance.sum(-1).argmin(0), torch.arange(count, device=points.device)] = True
            area = size.prod(-1).expand_as(inside).masked_fill(~inside, float("inf"))
            token = inside.any(1).nonzero()[:, 0]
            tokens.append(token)
            boxes.append(area[token].argmin(1) + first)
            images.append(torch.full_like(token, b))
        first += count
    if not tokens:
        empty = torch.zeros(0, dtype=torch.int64, device=centres.device)
        return Matches(empty, empty[None], empty[None])
    return Matches(torch.cat(images), torch.cat(tokens)[None], torch.cat(boxes)[None])


def union_of(matches: Sequence[Matches], queries: int) -> Matches:
    """Return the pairs of all layers as those of one; a query keeps the box that it is matched with most often.

    Args:
        matches: of layers and sets that have the same queries.
        queries: Q.
    """
    device = matches[0].images.device
    rows = [torch.stack([(m.images * queries + m.queries).flatten(), m.targets.flatten()]) for m in matches]
    pairs, counts = torch.unique(torch.cat(rows, dim=1), dim=1, return_counts=True)  # [2, U] in order, [U]
    often = counts.argsort(descending=True, stable=True)
    pairs = pairs[:, often][:, pairs[0, often].argsort(stable=True)]  # by query, the most frequent first
    first = torch.ones_like(pairs[0], dtype=torch.bool)
    first[1:] = pairs[0, 1:] != pairs[0, :-1]
    query, target = pairs[:, first].to(device)
    return Matches(query // queries, (query % queries)[None], target[None])


def _refuse_nonfinite(cost: np.ndarray, counts: Sequence[int]) -> None:
    """Raise where the assignment would fail, naming layers and images. cost [N, B, M, Q]."""
    real = np.arange(cost.shape[2]) < np.asarray(counts)[:, None]  # [B, M] rows that are boxes
    bad = (~np.isfinite(cost)).any(axis=-1) & real  # [N, B, M]
    if bad.any():
        layers, images, _ = np.nonzero(bad)
        where = ", ".join(str(n) for n in np.unique(layers))
        raise NonFinite(f"matching cost of decoder layer {where}", rows=np.unique(images).tolist())
