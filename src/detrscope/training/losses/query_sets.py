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
from detrscope.core.types import EdgeDistributions, Outputs, Proposals, Target
from detrscope.training.denoising import Denoising
from detrscope.training.matcher import Matcher, Matches, in_float32, one_to_many, union_of

IGNORED_LOGIT = -50.0  # logit of a query without meaning: no loss, no gradient


@dataclass(frozen=True)
class QuerySet:
    """Predictions of some queries, and the boxes matched with them.

    Groups of queries, each matched on its own, stand as layers: those of the first layer, of the second, and so on.
    """

    name: str  # empty for the model's own queries
    outputs: Outputs  # logits [N * groups, B, Q', K], boxes_cxcywh [N * groups, B, Q', 4], float32
    targets: Sequence[Target]  # of each of the B images
    matches: Matches
    matches_per_box: Fraction = Fraction(1)  # terms are divided by this times the number of boxes
    box_matches: Matches | None = None  # pairs that terms of boxes take, where they are others
    box_matches_per_box: Fraction = Fraction(1)
    groups: int = 1


def query_sets(
    outputs: Outputs,
    targets: Sequence[Target],
    denoising: Denoising | None,
    matcher: Matcher,
    union: bool = False,
) -> list[QuerySet]:
    """Return the query sets of a batch with their matches, the model's own queries first.

    Args:
        outputs: predictions, denoising queries in front of the model's own; proposals where the family has them.
        targets: ground truth of each of the B images.
        denoising: the denoising queries, where there are any.
        matcher: matches the model's own queries, and proposals.
        union: whether terms of boxes take the pairs of all layers, and of selected proposals, together.

    Raises:
        NonFinite: a matching cost is NaN or infinite.
    """
    count = 0 if denoising is None else denoising.labels.shape[1]
    groups = 1 if outputs.proposals is None else outputs.proposals.groups
    own = replace(
        _some_queries(outputs, slice(count, None)), masks=outputs.masks, mask_factors=outputs.mask_factors
    )
    own = _by_group(own, groups)
    sets = [QuerySet("", own, targets, matcher(own, targets), Fraction(groups), groups=groups)]
    if own.distributions is not None:
        start = _start_boxes(own.distributions)
        sets.append(QuerySet("start", start, targets, matcher(start, targets)))
    if outputs.proposals is not None:
        sets += _proposal_sets(outputs.proposals, targets, matcher)
    if union:
        sets = _with_union(sets)
    if denoising is not None:
        noised = _some_queries(outputs, slice(count))
        sets.append(_denoising_set("denoising", noised, targets, denoising))
        if noised.distributions is not None:
            start = _start_boxes(noised.distributions)
            sets.append(_denoising_set("denoising_start", start, targets, denoising))
    return sets


def _some_queries(outputs: Outputs, chosen: slice) -> Outputs:
    """Return the predictions of some queries in float32, without proposals."""
    logits, boxes = (in_float32(x[:, :, chosen]) for x in (outputs.logits, outputs.boxes_cxcywh))
    if outputs.distributions is None:
        return Outputs(logits, boxes)
    # Edges of distributions may cross or leave the image, where no box lies.
    return Outputs(logits, boxes.clamp(0, 1), distributions=outputs.distributions.of_queries(chosen))


def _start_boxes(distributions: EdgeDistributions) -> Outputs:
    """Return the boxes that the distributions start from, a prediction of the first layer."""
    return _one_layer(distributions.start_logits, distributions.start_cxcywh)


def _with_union(sets: Sequence[QuerySet]) -> list[QuerySet]:
    """Let terms of boxes take the pairs of all sets that have the same queries (D-FINE's published code).

    A query that is matched with several boxes keeps the one that it is matched with most often.
    """
    queries = sets[0].outputs.logits.shape[2]
    is_shared = [s.name != "dense" and s.outputs.logits.shape[2] == queries for s in sets]
    union = union_of([s.matches for s, shared in zip(sets, is_shared, strict=True) if shared], queries)
    ratio = _matches_per_box(len(union.images), sets[0].targets, union.images.device)
    return [
        replace(s, box_matches=union.repeated(len(s.outputs.logits)), box_matches_per_box=ratio)
        if shared
        else s
        for s, shared in zip(sets, is_shared, strict=True)
    ]


def _matches_per_box(matched: int, targets: Sequence[Target], device: torch.device) -> Fraction:
    """Return the matches for each box here and in all processes.

    The whole step is taken to have as many matches per box as this micro-batch: then losses add up.
    """
    counts = torch.tensor([matched, sum(len(target.labels) for target in targets)], device=device)
    total, boxes = reduce_over_ranks(counts, "sum").tolist()
    return Fraction(max(1, total), max(1, boxes))


def _proposal_sets(proposals: Proposals, targets: Sequence[Target], matcher: Matcher) -> list[QuerySet]:
    """Return the proposals matched one to one and, in training of some families, one to many."""
    logits, boxes_cxcywh = proposals.logits, proposals.boxes_cxcywh
    if proposals.selected is not None:
        index = proposals.selected[..., None]  # [B, Q, 1]
        logits, boxes_cxcywh = (x.gather(1, index.expand(-1, -1, x.shape[2])) for x in (logits, boxes_cxcywh))
    groups = proposals.groups
    sparse = _by_group(replace(_one_layer(logits, boxes_cxcywh), mask_factors=proposals.mask_factors), groups)
    labelled = _class_agnostic(targets) if proposals.any_class else targets
    sets = [
        QuerySet("proposals", sparse, labelled, matcher(sparse, labelled), Fraction(groups), groups=groups)
    ]
    if proposals.dense_logits is not None and proposals.dense_boxes_cxcywh is not None:
        dense = _one_layer(proposals.dense_logits, proposals.dense_boxes_cxcywh)
        centres = in_float32(proposals.centres)
        matches = one_to_many(centres, targets)
        ratio = _matches_per_box(len(matches.images), targets, centres.device)
        sets.append(QuerySet("dense", dense, targets, matches, ratio))
    return sets


def _denoising_set(name: str, noised: Outputs, targets: Sequence[Target], denoising: Denoising) -> QuerySet:
    """Return the denoising queries, which need no matching; those that only pad the batch are ignored."""
    logits = noised.logits.masked_fill(denoising.padding[None, ..., None], IGNORED_LOGIT)
    matches = denoising.matches(len(logits))
    return QuerySet(name, replace(noised, logits=logits), targets, matches, Fraction(denoising.groups))


def _one_layer(logits: Tensor, boxes_cxcywh: Tensor) -> Outputs:
    """Return predictions [B, S, ...] as those of one layer, [1, B, S, ...]."""
    return Outputs(in_float32(logits[None]), in_float32(boxes_cxcywh[None]))


def _by_group(outputs: Outputs, groups: int) -> Outputs:
    """Return groups of queries [N, B, groups * Q, ...] as layers, [N * groups, B, Q, ...]."""
    if groups == 1:
        return outputs
    logits, boxes = (
        torch.stack(x.chunk(groups, dim=2), dim=1).flatten(0, 1)
        for x in (outputs.logits, outputs.boxes_cxcywh)
    )
    if (factors := outputs.mask_factors) is not None:
        queries = torch.stack(factors.queries.chunk(groups, dim=2), dim=1).flatten(0, 1)
        pixels = tuple(x for x in factors.pixels for _ in range(groups))
        factors = replace(factors, queries=queries, pixels=pixels)
    return replace(outputs, logits=logits, boxes_cxcywh=boxes, mask_factors=factors)


def _class_agnostic(targets: Sequence[Target]) -> list[Target]:
    """Call every box class 0 (Deformable DETR, appendix A.4: a proposal is an object or background)."""
    return [replace(target, labels=torch.zeros_like(target.labels)) for target in targets]
