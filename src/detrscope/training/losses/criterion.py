"""The set loss (DETR, arXiv:2005.12872, section 3.1 and appendix A.2), for all decoder layers at once.

Every decoder layer has its own matching and its own three terms. The last layer's are called `loss_class`,
`loss_box` and `loss_giou`; those of the layers before it `loss_class_0`, `loss_box_0`, `loss_giou_0`,
`loss_class_1` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.types import Outputs, Target
from detrscope.training.denoising import Denoising
from detrscope.training.iou import iou_and_giou
from detrscope.training.losses.auxiliary import auxiliary_outputs, split_denoising
from detrscope.training.matcher import Matcher, Matches

TERMS = ("loss_class", "loss_box", "loss_giou")
MONITORS = ("class_error", "cardinality_error", "matched_iou")
PAIRS = "pairs"  # beside them: how many pairs of a query and a box two of the means are over
WEIGHTED = ("class_error", "matched_iou")
NO_OBJECT = -1  # in `AssignedTargets.labels`


@dataclass(frozen=True)
class LossNormalizers:
    """What the terms are divided by: counted over all images that share one optimiser step, per device."""

    boxes: Tensor  # [] at least 1
    matched: Tensor  # [] queries of one layer that answer for a box
    unmatched: Tensor  # [] queries of one layer that do not


@dataclass(frozen=True)
class AssignedTargets:
    """What every query should say, after matching."""

    labels: Tensor  # [N, B, Q] int64, class index, or NO_OBJECT
    iou: Tensor  # [N, B, Q] with the box it answers for, 0 where there is none; no gradient
    totals: LossNormalizers


class ClassLoss(Protocol):
    """The classification term."""

    def __call__(self, logits: Tensor, assigned: AssignedTargets) -> Tensor:
        """The loss of each layer: logits [N, B, Q, K] -> [N]."""
        ...

    def predicted_objects(self, logits: Tensor) -> Tensor:
        """How many queries claim to see an object: logits [B, Q, K] -> [B]."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy over classes and "no object" (the last logit), which counts less as most queries say it.

    A weighted mean: divided by the sum of the weights, not by the number of queries.
    """

    no_object: float = 0.1  # weight of a query that should say "no object" (section 3.1)

    def __call__(self, logits: Tensor, assigned: AssignedTargets) -> Tensor:
        """The loss of each layer: logits [N, B, Q, K] -> [N]."""
        layers, _, _, classes = logits.shape
        empty = assigned.labels == NO_OBJECT  # [N, B, Q]
        wanted = assigned.labels.masked_fill(empty, classes - 1)
        each = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view_as(
            wanted
        )  # [N, B, Q]
        weighted = torch.where(empty, each * self.no_object, each).view(layers, -1).sum(1)  # [N]
        return weighted / (assigned.totals.matched + self.no_object * assigned.totals.unmatched)

    def predicted_objects(self, logits: Tensor) -> Tensor:
        """How many queries claim to see an object: logits [B, Q, K] -> [B]."""
        return (logits.argmax(-1) != logits.shape[-1] - 1).sum(-1)


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts (DETR, appendix A.4)."""

    classes: float = 1.0
    box: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class Losses:
    """The loss of a batch, its weighted terms, and values that are only watched."""

    total: Tensor  # [] the sum of the terms, with gradient
    terms: dict[str, Tensor]  # name -> [] weighted, no gradient; they add up to the total
    monitors: dict[str, Tensor]  # name -> [] of the last layer; NaN where there is nothing to measure


class SetCriterion(nn.Module):
    """The loss of a set of predictions against a set of boxes.

    Args:
        matcher: pairs queries with boxes.
        class_loss: the classification term.
        weights: how much each term counts.
        mean_over_ranks: averages a tensor over the processes that train together; identity for one.
    """

    def __init__(
        self,
        matcher: Matcher,
        class_loss: ClassLoss,
        weights: LossWeights,
        mean_over_ranks: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.class_loss = class_loss
        self.weights = weights
        self.mean_over_ranks = mean_over_ranks

    def forward(
        self,
        outputs: Outputs,
        targets: Sequence[Target],
        counts: Sequence[int] | None = None,
        denoising: Denoising | None = None,
    ) -> Losses:
        """The loss of one batch.

        Args:
            outputs: predictions, logits [N, B, Q, K] and boxes [N, B, Q, 4]; denoising queries first.
            targets: the truth of each of the B images, on the same device.
            counts: boxes of each image of the optimiser step, where it is made of several batches (gradient
                accumulation): the losses of those batches then add up to the loss of one large batch.
            denoising: what the first queries were made from, where there are any.

        Raises:
            NonFinite: a matching cost is NaN or infinite.
        """
        outputs = replace(outputs, logits=outputs.logits.float(), boxes_cxcywh=outputs.boxes_cxcywh.float())
        own, noisy = split_denoising(outputs, denoising)
        totals = self._totals([len(t.labels) for t in targets] if counts is None else counts, own.logits)
        table, assigned = self._judge(own, targets, self.matcher(own, targets), totals)  # [3, N]
        terms = _named(table.detach())
        total = table.sum()
        for extra in auxiliary_outputs(own, noisy, targets, denoising, self.matcher, totals.boxes):
            rows, _ = self._judge(
                extra.outputs, extra.targets, extra.matches, replace(totals, boxes=extra.boxes)
            )
            total = total + rows.sum()
            terms |= {
                f"{name}_{extra.name}": row for name, row in zip(TERMS, rows.detach().sum(1), strict=True)
            }
        return Losses(total, terms, self._monitors(own.logits[-1], assigned, targets))

    def _judge(
        self, outputs: Outputs, targets: Sequence[Target], matches: Matches, totals: LossNormalizers
    ) -> tuple[Tensor, AssignedTargets]:
        """The weighted terms of a set of predictions, [3, N] with rows as in TERMS, and what each query should say."""
        found, wanted = self._pairs(outputs.boxes_cxcywh, targets, matches)  # [N, P, 4] each
        iou, giou = iou_and_giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))  # [N, P]
        assigned = _assign(matches, targets, iou.detach(), outputs.logits.shape[:3], totals)
        table = torch.stack(
            [
                self.class_loss(outputs.logits, assigned) * self.weights.classes,
                (found - wanted).abs().sum((1, 2)) / totals.boxes * self.weights.box,
                (1 - giou).sum(1) / totals.boxes * self.weights.giou,
            ]
        )
        return table, assigned

    @staticmethod
    def _pairs(boxes: Tensor, targets: Sequence[Target], matches: Matches) -> tuple[Tensor, Tensor]:
        """Predicted and true boxes of each pair, [N, P, 4] each."""
        layer = torch.arange(len(boxes), device=boxes.device)[:, None]  # [N, 1]
        wanted = torch.cat([t.boxes_cxcywh for t in targets]).float()  # [all M, 4]
        return boxes[layer, matches.images, matches.queries], wanted[matches.targets]

    def _totals(self, counts: Sequence[int], logits: Tensor) -> LossNormalizers:
        queries = logits.shape[2]
        boxes, matched = sum(counts), sum(min(count, queries) for count in counts)
        local = logits.new_tensor([boxes, matched, len(counts) * queries - matched])
        shared = self.mean_over_ranks(local)
        return LossNormalizers(shared[0].clamp(min=1), shared[1], shared[2])

    @torch.no_grad()
    def _monitors(
        self, logits: Tensor, assigned: AssignedTargets, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Percent of matched queries with a wrong class, error in the number of objects, mean IoU."""
        labels, iou = assigned.labels[-1], assigned.iou[-1]  # [B, Q]
        matched = labels != NO_OBJECT
        pairs = matched.sum()
        wrong = ((logits.argmax(-1) != labels) & matched).sum()
        present = torch.tensor([len(t.labels) for t in targets], device=logits.device)
        miscounted = (self.class_loss.predicted_objects(logits) - present).abs().float().mean()
        values = (100 * wrong / pairs, miscounted, iou.sum() / pairs, pairs.float())
        return dict(zip((*MONITORS, PAIRS), values, strict=True))


def _assign(
    matches: Matches, targets: Sequence[Target], iou: Tensor, shape: Sequence[int], totals: LossNormalizers
) -> AssignedTargets:
    """Spread pairs over the queries. iou [N, P], shape (N, B, Q)."""
    layer = torch.arange(shape[0], device=iou.device)[:, None]  # [N, 1]
    where = (layer, matches.images.expand_as(matches.queries), matches.queries)
    labels = torch.full(tuple(shape), NO_OBJECT, dtype=torch.int64, device=iou.device)  # [N, B, Q]
    labels[where] = torch.cat([t.labels for t in targets])[matches.targets]
    overlap = torch.zeros(tuple(shape), device=iou.device)  # [N, B, Q]
    overlap[where] = iou
    return AssignedTargets(labels, overlap, totals)


def _named(table: Tensor) -> dict[str, Tensor]:
    """Rows of TERMS by layers as named terms, the last layer first and without a number. [3, N]."""
    last = table.shape[1] - 1
    names = {term: table[i, last] for i, term in enumerate(TERMS)}
    return names | {f"{term}_{n}": table[i, n] for n in range(last) for i, term in enumerate(TERMS)}
