"""Queries in groups: several sets of them learn from the same tokens in training, one is used afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrscope.blocks.heads import scale_box_by_offsets
from detrscope.blocks.layers import MLP, apply_layer_in_float32
from detrscope.blocks.queries import QueryModule, TrainingSupport
from detrscope.blocks.token_queries import best_query_proposals, gather_tokens, initial_proposals
from detrscope.core.types import Proposals, Pyramid, Queries


class ProposalGroup(nn.Module):
    """What one group of queries makes of the tokens: a projection of them, classes and boxes.

    Args:
        width: D.
        class_head: [B, S, D] -> [B, S, K].
        box_head: [B, S, D] -> [B, S, 4].
    """

    def __init__(self, width: int, class_head: nn.Linear, box_head: MLP) -> None:
        super().__init__()
        self.projection = nn.Linear(width, width)
        self.projection_norm = nn.LayerNorm(width)
        self.class_head = class_head
        self.box_head = box_head
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(self, tokens: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, S, D], boxes [B or 1, S, 4] -> logits [B, S, K], boxes [B, S, 4], projected tokens [B, S, D]."""
        projected = self.projection_norm(self.projection(tokens))
        delta = apply_layer_in_float32(self.box_head.last, self.box_head.hidden(projected))
        logits = apply_layer_in_float32(self.class_head, projected)
        return logits, scale_box_by_offsets(start, delta), projected


class GroupQueries(QueryModule):
    """Two-stage queries with learned content, in groups in training (LW-DETR, arXiv:2406.03459, section 3.2).

    Every group selects the tokens whose best class scores highest; their boxes, moved by a learned offset, are the
    references (mixed query selection: DINO, arXiv:2203.03605, section 3.4). In evaluation there is the first group
    only (Group DETR, arXiv:2207.13085).

    Args:
        count: Q, of each group.
        width: D.
        groups: what makes the proposals of each group.
    """

    def __init__(self, count: int, width: int, groups: Sequence[ProposalGroup]) -> None:
        super().__init__()
        self.count = count
        self.groups = nn.ModuleList(groups)
        self.content = nn.Parameter(torch.randn(len(groups) * count, width))
        self.offset = nn.Parameter(torch.zeros(len(groups) * count, 4))

    @property
    def training_support(self) -> TrainingSupport:
        """Proposals scored per class."""
        return TrainingSupport(proposals="per-class")

    def forward(self, pyramid: Pyramid) -> Queries:
        """Tokens [B, S, D] -> content [B, groups * Q, D], boxes_cxcywh [B, groups * Q, 4]; position is zero."""
        start, void = initial_proposals(pyramid)
        tokens = pyramid.tokens.masked_fill(void, 0.0)
        centres, start = start[..., :2], start.masked_fill(void, 0.0)
        used = list(self.groups) if self.training else [self.groups[0]]
        logits, boxes, chosen, references, contents, features = [], [], [], [], [], []
        for number, group in enumerate(used):
            scores, proposed, projected = group(tokens, start)  # [B, S, K], [B, S, 4], [B, S, D]
            best = best_query_proposals(
                scores.detach().amax(-1).masked_fill(void[..., 0], float("-inf")), self.count
            )  # [B, Q]
            own = slice(number * self.count, number * self.count + best.shape[1])
            references.append(scale_box_by_offsets(gather_tokens(proposed, best), self.offset[own]))
            contents.append(self.content[own].expand(best.shape[0], -1, -1))
            features.append(projected.gather(1, best[..., None].expand(-1, -1, projected.shape[2])))
            chosen.append(best + number * scores.shape[1])
            logits.append(scores)
            boxes.append(proposed)
        content = torch.cat(contents, dim=1).to(pyramid.tokens.dtype)
        proposals = Proposals(
            logits=torch.cat(logits, dim=1),
            boxes_cxcywh=torch.cat(boxes, dim=1),
            centres=centres,
            selected=torch.cat(chosen, dim=1),
            groups=len(used),
            content=torch.cat(features, dim=1),
        )
        return Queries(content, torch.zeros_like(content), torch.cat(references, dim=1), proposals=proposals)
