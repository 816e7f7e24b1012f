"""What a two-stage model is asked besides its own queries: proposals, dense proposals, denoising queries.

Each is one more set of predictions with pairs of its own, judged by the same three terms. Their terms are called
`loss_class_proposals`, `loss_class_dense`, `loss_class_denoising` and so on, summed over decoder layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detrscope.core.types import Outputs, Target
from detrscope.training.denoising import Denoising
from detrscope.training.matcher import Matcher, Matches
from detrscope.training.one_to_many import one_to_many

IGNORED_LOGIT = -50.0  # logit of a query that stands for nothing: no loss, no gradient


@dataclass(frozen=True)
class AuxiliaryOutputs:
    """Predictions with their pairs."""

    name: str
    outputs: Outputs  # logits [N, B, Q', K], boxes_cxcywh [N, B, Q', 4]
    targets: Sequence[Target]
    matches: Matches
    boxes: Tensor  # [] what the terms are divided by


def split_denoising(outputs: Outputs, denoising: Denoising | None) -> tuple[Outputs, Outputs | None]:
    """The model's own queries, and the denoising queries that stood in front of them."""
    if denoising is None:
        return outputs, None
    count = denoising.labels.shape[1]
    own = replace(
        outputs, logits=outputs.logits[:, :, count:], boxes_cxcywh=outputs.boxes_cxcywh[:, :, count:]
    )
    extra = Outputs(outputs.logits[:, :, :count], outputs.boxes_cxcywh[:, :, :count])
    return own, extra


def auxiliary_outputs(
    outputs: Outputs,
    noisy: Outputs | None,
    targets: Sequence[Target],
    denoising: Denoising | None,
    matcher: Matcher,
    boxes: Tensor,
) -> list[AuxiliaryOutputs]:
    """The sets that these outputs hold besides the model's own queries.

    Args:
        outputs: of the model's own queries, with proposals where the family has them.
        noisy: of the denoising queries.
        targets: the truth of each image.
        denoising: what the denoising queries were made from.
        matcher: pairs proposals with boxes.
        boxes: [] number of boxes of the step.
    """
    found = []
    proposals = outputs.proposals
    if proposals is not None:
        one = Outputs(proposals.logits[None].float(), proposals.boxes_cxcywh[None].float())
        wanted = _of_one_class(targets) if proposals.any_class else targets
        found.append(AuxiliaryOutputs("proposals", one, wanted, matcher(one, wanted), boxes))
        if proposals.dense_logits is not None and proposals.dense_boxes_cxcywh is not None:
            many = Outputs(proposals.dense_logits[None].float(), proposals.dense_boxes_cxcywh[None].float())
            pairs = one_to_many(proposals.centres, targets)
            here = max(1, sum(len(target.labels) for target in targets))
            # Pairs of the whole step, taken to be as many a box as here: passes and devices then add up.
            found.append(
                AuxiliaryOutputs("dense", many, targets, pairs, boxes * max(1, len(pairs.images)) / here)
            )
    if noisy is not None and denoising is not None:
        real = torch.zeros(denoising.labels.shape, dtype=torch.bool, device=boxes.device)
        real[denoising.images, denoising.queries] = True  # [B, E]
        logits = noisy.logits.masked_fill(~real[None, ..., None], IGNORED_LOGIT)
        pairs = denoising.matches(len(logits))
        boxes = boxes * denoising.groups
        found.append(AuxiliaryOutputs("denoising", replace(noisy, logits=logits), targets, pairs, boxes))
    return found


def _of_one_class(targets: Sequence[Target]) -> list[Target]:
    """The same boxes, all called class 0 (Deformable DETR, appendix A.4: a proposal is an object or background)."""
    return [Target(torch.zeros_like(target.labels), target.boxes_cxcywh) for target in targets]
