"""The set loss (DETR, arXiv:2005.12872, section 3.1 and appendix A.2), composed of terms, for all layers at once.

Every decoder layer has its own matching and its own value of each term. Those of the last layer have the name of the
term, such as `loss_box`; those of the layers before it `loss_box_0`, `loss_box_1` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.distributed import rank_and_world, reduce_over_ranks
from detrscope.core.model_card import Scoring
from detrscope.core.types import Outputs, Target
from detrscope.training.denoising import Denoising
from detrscope.training.iou import iou_and_giou
from detrscope.training.losses.masks import MaskTerm, match_masks
from detrscope.training.losses.matched_points import PointMasks, match_mask_points
from detrscope.training.losses.query_sets import QuerySet, query_sets
from detrscope.training.matcher import Matcher, Matches

MONITORS = ("class_error", "cardinality_error", "matched_iou")
PAIRS = "pairs"  # a monitor too: the number of matched queries, by which the means of WEIGHTED are weighted
WEIGHTED = ("class_error", "matched_iou")
NO_OBJECT = -1  # in `MatchedPredictions.labels`


@dataclass(frozen=True)
class LossNormalizers:
    """Divisors of the terms: counts over all images of one optimiser step, divided by the number of devices."""

    boxes: Tensor  # [] ground-truth boxes, of at least 1 in all
    matched: Tensor  # [] matched queries of one layer
    unmatched: Tensor  # [] the other queries of one layer


@dataclass(frozen=True)
class MatchedPredictions:
    """Predictions of a query set beside their ground truth, as terms of the loss read them."""

    logits: Tensor  # [N, B, Q, K]; N counts groups of queries, too
    labels: Tensor  # [N, B, Q] int64, class index of the matched box, or NO_OBJECT
    iou: Tensor  # [N, B, Q] with the matched box, 0 where there is none; no gradient
    boxes_cxcywh: Tensor  # [N, P, 4] predicted, of each pair that terms of boxes take
    target_boxes_cxcywh: Tensor  # [N, P, 4] ground truth, of each pair
    giou: Tensor  # [N, P]
    pair_iou: Tensor  # [N, P] no gradient
    pair_index: tuple[Tensor, Tensor, Tensor]  # layer [N, 1], image [N, P] and query [N, P] of each pair
    pairs: Tensor  # [] divisor of terms of boxes, as `LossNormalizers.boxes` is of terms of classes
    share: float  # images here, of those of the optimiser step
    normalizers: LossNormalizers
    query_set: QuerySet  # where the above comes from, for terms of other outputs
    mask_points: PointMasks | None = None  # masks of each pair at points, where masks are products


class LossTerm(Protocol):
    """One term of the loss. A new one is a file beside this one and a line in `recipe.py`."""

    @property
    def name(self) -> str:
        """Name in the metrics, such as `loss_box`."""
        ...

    @property
    def weight(self) -> float:
        """Factor of the term in the loss."""
        ...

    def __call__(self, matched: MatchedPredictions) -> Tensor | None:
        """Return the term of each decoder layer, [N], normalised but not weighted; None where it does not apply."""
        ...


@dataclass(frozen=True)
class Losses:
    """The loss of a batch, its weighted terms, and monitored values without influence."""

    total: Tensor  # [] the sum of the terms, with gradient
    terms: dict[str, Tensor]  # name -> [] weighted, no gradient; they add up to the total
    monitors: dict[str, Tensor]  # name -> [] of the last layer; NaN where there is nothing to measure


class SetCriterion(nn.Module):
    """The loss of a set of predictions against a set of boxes.

    Args:
        matcher: pairs queries with boxes.
        terms: the terms of the loss, in the order in which they are reported.
        scoring: how logits become scores; `cardinality_error` uses it to count predicted objects.
        union: whether terms of boxes take the pairs of all layers together.
        mask_terms: the terms of masks, where the model predicts any.
    """

    def __init__(
        self,
        matcher: Matcher,
        terms: Sequence[LossTerm],
        scoring: Scoring,
        union: bool = False,
        mask_terms: Sequence[MaskTerm] = (),
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.terms = tuple(terms)
        self.scoring = scoring
        self.union = union
        self.mask_terms = tuple(mask_terms)

    def forward(
        self,
        outputs: Outputs,
        targets: Sequence[Target],
        counts: Sequence[int] | None = None,
        denoising: Denoising | None = None,
    ) -> Losses:
        """Compute the loss of one batch.

        Args:
            outputs: predictions, logits [N, B, Q, K] and boxes [N, B, Q, 4]; denoising queries first.
            targets: ground truth of each of the B images, on the same device.
            counts: boxes of each image of the optimiser step, where it has several micro-batches: the losses of
                those then add up to the loss of one large batch.
            denoising: the denoising queries, where there are any.

        Raises:
            NonFinite: a matching cost is NaN or infinite.
        """
        sets = query_sets(outputs, targets, denoising, self.matcher, self.union)
        counts = [len(target.labels) for target in targets] if counts is None else counts
        normalizers = _normalizers(counts, sets[0].outputs.logits)
        share = len(targets) / max(1, len(counts))  # a process may have no image in the last batch
        matched = [_match(query_set, normalizers, share) for query_set in sets]
        tables = [self._weighted(m) for m in matched]
        total = torch.stack([*tables[0].values()]).sum()
        terms = _by_layer(tables[0])
        for query_set, table in zip(sets[1:], tables[1:], strict=True):
            total = total + torch.stack([*table.values()]).sum()
            terms |= {f"{name}_{query_set.name}": value.detach().sum() for name, value in table.items()}
        for name, value in self._of_masks(sets[0], normalizers).items():
            total = total + value
            terms[name] = value.detach()
        return Losses(total, terms, _monitors(matched[0], targets, self.scoring))

    def _of_masks(self, own: QuerySet, normalizers: LossNormalizers) -> dict[str, Tensor]:
        """Return the weighted terms of the masks of the model's own queries, which only the last layer has."""
        predicted = own.outputs.masks
        if predicted is None:
            return {}
        matched = match_masks(predicted, own.targets, own.matches, normalizers.boxes)
        return {term.name: term(matched) * term.weight for term in self.mask_terms}

    def _weighted(self, matched: MatchedPredictions) -> dict[str, Tensor]:
        """Return the weighted terms [N] of a query set by name, summed over groups."""
        values = {term.name: (term(matched), term.weight) for term in self.terms}
        groups = matched.query_set.groups
        return {
            name: (value * weight).view(-1, groups).sum(1)
            for name, (value, weight) in values.items()
            if value is not None
        }


def _by_layer(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the terms [N] of the model's own queries, the last layer first and without a number."""
    names = {name: value[-1].detach() for name, value in table.items()}
    layers = len(next(iter(table.values())))
    return names | {
        f"{name}_{n}": value[n].detach() for n in range(layers - 1) for name, value in table.items()
    }


def _normalizers(counts: Sequence[int], logits: Tensor) -> LossNormalizers:
    queries = logits.shape[2]
    boxes, matched = sum(counts), sum(min(count, queries) for count in counts)
    local = logits.new_tensor([boxes, matched, len(counts) * queries - matched])
    shared = reduce_over_ranks(local, "sum")
    shared[0].clamp_(
        min=1
    )  # of all devices: clamped on each, a step with one box in all would learn less from it
    shared = shared / rank_and_world()[1]  # since DDP averages the gradients
    return LossNormalizers(shared[0], shared[1], shared[2])


def _match(query_set: QuerySet, normalizers: LossNormalizers, share: float) -> MatchedPredictions:
    """Gather the predictions and ground truth of each matched pair of a query set."""
    outputs, targets, matches = query_set.outputs, query_set.targets, query_set.matches
    index = _index(matches)
    predicted, target_boxes = _pairs(query_set, matches)
    iou, giou = iou_and_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target_boxes))  # [N, P]
    pair_iou, pair_index = iou, index
    if query_set.box_matches is not None:
        predicted, target_boxes = _pairs(query_set, query_set.box_matches)
        pair_iou, giou = iou_and_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target_boxes))
        pair_index = _index(query_set.box_matches)
    labels = torch.full(outputs.logits.shape[:3], NO_OBJECT, device=iou.device)  # [N, B, Q]
    labels[index] = torch.cat([t.labels for t in targets])[matches.targets]
    query_iou = torch.zeros(outputs.logits.shape[:3], device=iou.device, dtype=iou.dtype)  # [N, B, Q]
    query_iou[index] = iou.detach()
    boxes, pairs = (
        normalizers.boxes * ratio.numerator / ratio.denominator
        for ratio in (query_set.matches_per_box, query_set.box_matches_per_box)
    )
    return MatchedPredictions(
        logits=outputs.logits,
        labels=labels,
        iou=query_iou,
        boxes_cxcywh=predicted,
        target_boxes_cxcywh=target_boxes,
        giou=giou,
        pair_iou=pair_iou.detach(),
        pair_index=pair_index,
        pairs=boxes if query_set.box_matches is None else pairs,
        share=share,
        normalizers=LossNormalizers(boxes, normalizers.matched, normalizers.unmatched),
        mask_points=match_mask_points(query_set),
        query_set=query_set,
    )


def _index(matches: Matches) -> tuple[Tensor, Tensor, Tensor]:
    """Return the index of each pair in [N, B, Q, ...]: layer [N, 1], image [N, P], query [N, P]."""
    layer = torch.arange(len(matches.queries), device=matches.queries.device)[:, None]
    return layer, matches.images.expand_as(matches.queries), matches.queries


def _pairs(query_set: QuerySet, matches: Matches) -> tuple[Tensor, Tensor]:
    """Return predicted and ground-truth boxes_cxcywh [N, P, 4] of each pair."""
    predicted = query_set.outputs.boxes_cxcywh[_index(matches)]
    wanted = torch.cat([t.boxes_cxcywh for t in query_set.targets]).to(predicted.dtype)
    return predicted, wanted[matches.targets]


@torch.no_grad()
def _monitors(matched: MatchedPredictions, targets: Sequence[Target], scoring: Scoring) -> dict[str, Tensor]:
    """Return percent of matched queries with a wrong class, error in the number of objects, mean IoU, pairs."""
    last = -matched.query_set.groups  # the last layer, and of its groups the one that is used in evaluation
    logits, labels, iou = matched.logits[last], matched.labels[last], matched.iou[last]  # [B, Q, ...]
    has_box = labels != NO_OBJECT
    pairs = has_box.sum()
    wrong = ((logits.argmax(-1) != labels) & has_box).sum()
    present = torch.tensor([len(target.labels) for target in targets], device=logits.device)
    miscounted = (_predicted_objects(logits, scoring) - present).abs().float().mean()
    values = (100 * wrong / pairs, miscounted, iou.sum() / pairs, pairs.float())
    return dict(zip((*MONITORS, PAIRS), values, strict=True))


def _predicted_objects(logits: Tensor, scoring: Scoring) -> Tensor:
    """Count the queries that predict an object rather than none: logits [B, Q, K] -> [B]."""
    if scoring == "softmax":  # the last class is "no object"
        return (logits.argmax(-1) != logits.shape[-1] - 1).sum(-1)
    return (logits.amax(-1) > 0).sum(-1)
