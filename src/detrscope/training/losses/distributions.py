"""Terms for edges predicted as distributions (D-FINE, arXiv:2410.13842, section 4 and appendix A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.ops.edge_distributions import bins_around, steps_to_edges
from detrscope.training.losses.criterion import MatchedPredictions


@dataclass(frozen=True, kw_only=True)
class FineGrainedLocalization:
    """Cross-entropy of the two bins around the true step of each edge, weighted by the IoU of the box (equation 3)."""

    name: str = "loss_fgl"
    weight: float = 0.15

    def __call__(self, matched: MatchedPredictions) -> Tensor | None:
        """Return the loss of each layer divided by the number of pairs, [N]; None without distributions."""
        distributions = matched.query_set.outputs.distributions
        if distributions is None:
            return None
        layer, images, queries = matched.pair_index
        start = distributions.start_cxcywh.detach()[images, queries]  # [N, P, 4]
        steps = steps_to_edges(start, cxcywh_to_xyxy(matched.target_boxes_cxcywh), distributions.scale)
        below, fraction = bins_around(steps, distributions.steps)  # [N, P, 4]
        log = distributions.logits[layer, images, queries].log_softmax(-1)  # [N, P, 4, R + 1]
        left, right = (log.gather(-1, bins[..., None])[..., 0] for bins in (below, below + 1))
        each = -(left * (1 - fraction) + right * fraction) * matched.pair_iou[..., None]
        return each.sum((1, 2)) / matched.pairs


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Divergence of each layer's distributions from the last layer's, of matched and other queries alike.

    Queries weigh as much as the IoU of their pair, others as their best class score; the means of the two kinds are
    weighted by the square roots of their numbers (equations 4 and 5).
    """

    name: str = "loss_ddf"
    weight: float = 1.5
    temperature: float = 5.0

    def __call__(self, matched: MatchedPredictions) -> Tensor | None:
        """Return the loss of each layer, [N], zero for the last; None without distributions."""
        distributions = matched.query_set.outputs.distributions
        if distributions is None:
            return None
        student = (distributions.logits / self.temperature).log_softmax(-1)  # [N, B, Q, 4, R + 1]
        teacher = student[-1:].detach().expand_as(student)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum((-1, -2))  # [N, B, Q]
        weights = matched.logits[-1].detach().sigmoid().amax(-1).expand(len(student), -1, -1).clone()
        weights[matched.pair_index] = matched.pair_iou.to(weights.dtype)
        is_matched = torch.zeros_like(weights, dtype=torch.bool)
        is_matched[matched.pair_index] = True
        losses = weights * divergence * (self.temperature**2 / 4)  # mean of the four edges
        roots, sums = [], []
        for mask in (is_matched, ~is_matched):
            count = mask.sum((1, 2))  # [N]
            roots.append(count.sqrt())
            sums.append((losses * mask).sum((1, 2)) / count.clamp(min=1) * roots[-1])
        return matched.share * (sums[0] + sums[1]) / (roots[0] + roots[1])
