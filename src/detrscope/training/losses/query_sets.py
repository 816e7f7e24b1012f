"""The query sets of a batch, each matched in its own way: the model's own, proposals, dense proposals, denoising.

The criterion takes the same terms of each. Terms of the model's own queries are named by decoder layer; those of the
other sets, summed over layers, by the set: `loss_class_proposals`, `loss_class_dense`, `loss_class_denoising` ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from detrscope.core.distributed import reduce_over_ranks
from detrscope.core.types import Outputs, Proposals, Target
from detrscope.training.denoising import Denoising
from detrscope.training.matcher import Matcher, Matches, in_float32, one_to_many

IGNORED_LOGIT = -50.0  # logit of a query without meaning: no loss, no gradient


@dataclass(frozen=True)
class QuerySet:
    """Predictions of some queries, and the boxes matched with them."""

    name: str  # empty for the model's own queries
    outputs: Outputs  # logits [N, B, Q', K], boxes_cxcywh [N, B, Q', 4], float32
    targets: Sequence[Target]  # of each of the B images
    matches: Matches
    matches_per_box: Fraction = Fraction(1)  # terms are divided by this times the number of boxes


def query_sets(
    outputs: Outputs, targets: Sequence[Target], denoising: Denoising | None, matcher: Matcher
) -> list[QuerySet]:
    """Return the query sets of a batch with their matches, the model's own queries first.

    Args:
        outputs: predictions, denoising queries in front of the model's own; proposals where the family has them.
        targets: ground truth of each of the B images.
        denoising: the denoising queries, where there are any.
        matcher: matches the model's own queries, and proposals.

    Raises:
        NonFinite: a matching cost is NaN or infinite.
    """
    count = 0 if denoising is None else denoising.labels.shape[1]
    logits, boxes = in_float32(outputs.logits), in_float32(outputs.boxes_cxcywh)
    own = replace(outputs, logits=logits[:, :, count:], boxes_cxcywh=boxes[:, :, count:])
    sets = [QuerySet("", own, targets, matcher(own, targets))]
    if outputs.proposals is not None:
        sets += _proposal_sets(outputs.proposals, targets, matcher)
    if denoising is not None:
        noised = Outputs(logits[:, :, :count], boxes[:, :, :count])
        sets.append(_denoising_set(noised, targets, denoising))
    return sets


def _proposal_sets(proposals: Proposals, targets: Sequence[Target], matcher: Matcher) -> list[QuerySet]:
    """Return the proposals matched one to one and, in training of some families, one to many."""
    logits, boxes_cxcywh = proposals.logits, proposals.boxes_cxcywh
    if proposals.selected is not None:
        index = proposals.selected[..., None]  # [B, Q, 1]
        logits, boxes_cxcywh = (x.gather(1, index.expand(-1, -1, x.shape[2])) for x in (logits, boxes_cxcywh))
    sparse = _one_layer(logits, boxes_cxcywh)
    labelled = _class_agnostic(targets) if proposals.any_class else targets
    sets = [QuerySet("proposals", sparse, labelled, matcher(sparse, labelled))]
    if proposals.dense_logits is not None and proposals.dense_boxes_cxcywh is not None:
        dense = _one_layer(proposals.dense_logits, proposals.dense_boxes_cxcywh)
        centres = in_float32(proposals.centres)
        matches = one_to_many(centres, targets)
        # The whole step is taken to have as many matches per box as this micro-batch: then losses add up.
        counts = torch.tensor(
            [len(matches.images), sum(len(target.labels) for target in targets)], device=centres.device
        )
        matched, boxes = reduce_over_ranks(counts, "sum").tolist()
        ratio = Fraction(max(1, matched), max(1, boxes))
        sets.append(QuerySet("dense", dense, targets, matches, ratio))
    return sets


def _denoising_set(noised: Outputs, targets: Sequence[Target], denoising: Denoising) -> QuerySet:
    """Return the denoising queries, which need no matching; those that only pad the batch are ignored."""
    logits = noised.logits.masked_fill(denoising.padding[None, ..., None], IGNORED_LOGIT)
    matches = denoising.matches(len(logits))
    return QuerySet("denoising", replace(noised, logits=logits), targets, matches, Fraction(denoising.groups))


def _one_layer(logits: Tensor, boxes_cxcywh: Tensor) -> Outputs:
    """Return predictions [B, S, ...] as those of one layer, [1, B, S, ...]."""
    return Outputs(in_float32(logits[None]), in_float32(boxes_cxcywh[None]))


def _class_agnostic(targets: Sequence[Target]) -> list[Target]:
    """Call every box class 0 (Deformable DETR, appendix A.4: a proposal is an object or background)."""
    return [Target(torch.zeros_like(target.labels), target.boxes_cxcywh) for target in targets]
