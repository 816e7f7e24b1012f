"""Queries that tokens propose: every token predicts classes and a box, the best become the decoder's queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrscope.blocks.layers import MLP, apply_layer_in_float32, zero_last
from detrscope.blocks.queries import PRIOR_LOGIT, LabelEmbedding, QueryModule, TrainingSupport
from detrscope.core.types import Level, Proposals, Pyramid, Queries
from detrscope.ops.position import inverse_sigmoid, sine_boxes

FINEST_SIDE = 0.05  # side of the boxes that the finest map's tokens propose, 0..1; doubled from map to map
EDGE = 0.01  # tokens whose initial box has a number nearer to 0 or 1 propose nothing


class MixedQueries(QueryModule):
    """Two-stage queries with learned content: every token proposes classes and a box, the best become references.

    Two-stage selection as in Deformable DETR (arXiv:2010.04159, section 4.2) with mixed query selection (DINO,
    arXiv:2203.03605, section 3.4): content is learned, the features of the selected token are added. A second,
    one-to-many pair of heads, used in training only, speeds up what the tokens learn.

    Args:
        count: Q.
        width: D.
        classes: K.
        sizes: initial side of a proposed box on each level, 0..1 of the image.
    """

    def __init__(self, count: int, width: int, classes: int, sizes: tuple[float, ...]) -> None:
        super().__init__()
        self.count = count
        self.sizes = sizes
        self.class_head = nn.Linear(width, classes)
        self.box_head = MLP(width, width, 4)
        self.dense_class_head = nn.Linear(width, classes)
        self.dense_box_head = MLP(width, width, 4)
        self.content = nn.Parameter(torch.randn(count, width) * 0.02)
        self.label_embedding = LabelEmbedding(classes, width)
        for class_head in (self.class_head, self.dense_class_head):
            nn.init.constant_(class_head.bias, PRIOR_LOGIT)
        for box_head in (self.box_head, self.dense_box_head):
            zero_last(box_head)

    @property
    def training_support(self) -> TrainingSupport:
        """Denoising, proposals scored per class, one-to-many proposals."""
        return TrainingSupport(self.label_embedding, proposals="per-class", one_to_many=True)

    def forward(self, pyramid: Pyramid) -> Queries:
        """Tokens [B, S, D] -> content [B, Q, D], boxes_cxcywh [B, Q, 4]; Q is at most S."""
        proposals = self.propose(pyramid)
        scores = proposals.logits.detach().amax(-1)  # [B, S]
        if pyramid.padding is not None:
            scores = scores.masked_fill(pyramid.padding, float("-inf"))
        best = best_query_proposals(scores, self.count)  # [B, Q]
        features = gather_tokens(pyramid.tokens, best)
        content = self.content[: best.shape[1]].to(features.dtype) + features
        if (
            self.training
        ):  # all ranks must agree on which parameters have a gradient, with or without ground truth
            content = content + 0 * self.label_embedding.weight.sum().to(features.dtype)
        boxes = gather_tokens(proposals.boxes_cxcywh, best)
        return Queries(content, torch.zeros_like(content), boxes, proposals=proposals)

    def propose(self, pyramid: Pyramid) -> Proposals:
        """Predict classes and a box from every token."""
        assert pyramid.centres is not None, "the neck must give the centres of the tokens"
        tokens = pyramid.tokens
        start = inverse_sigmoid(proposal_boxes(pyramid.centres, pyramid.levels, self.sizes))
        return Proposals(
            logits=apply_layer_in_float32(self.class_head, tokens),
            boxes_cxcywh=propose_boxes(self.box_head, tokens, start),
            centres=pyramid.centres,
            dense_logits=apply_layer_in_float32(self.dense_class_head, tokens) if self.training else None,
            dense_boxes_cxcywh=propose_boxes(self.dense_box_head, tokens, start) if self.training else None,
        )


class TokenProposals(QueryModule):
    """Base of queries that every token proposes: a projection of the tokens, a class head and a box head.

    Args:
        count: Q.
        width: D.
        class_head: [B, S, D] -> [B, S, K].
        box_head: [B, S, D] -> [B, S, 4].
    """

    any_class: bool  # logit 0 stands for an object of any class

    def __init__(self, count: int, width: int, class_head: nn.Linear, box_head: MLP) -> None:
        super().__init__()
        self.count = count
        projection = nn.Linear(width, width)
        self.projection: nn.Module = projection
        self.projection_norm: nn.Module = nn.LayerNorm(width)
        self.class_head = class_head
        self.box_head = box_head
        nn.init.xavier_uniform_(projection.weight)

    def propose(self, pyramid: Pyramid) -> tuple[Proposals, Tensor]:
        """Predict classes and a box from every token; tokens in padding or at an edge propose nothing.

        Returns:
            The proposals, and the projected tokens [B, S, D].
        """
        start, void = initial_proposals(pyramid)
        projected = self.projection_norm(self.projection(pyramid.tokens.masked_fill(void, 0.0)))  # [B, S, D]
        boxes = propose_boxes(self.box_head, projected, inverse_sigmoid(start))  # [B, S, 4]
        proposals = Proposals(
            logits=apply_layer_in_float32(self.class_head, projected),
            boxes_cxcywh=boxes.masked_fill(void, 1.0),  # as published: the limit of an infinite logit
            centres=start[..., :2],
            any_class=self.any_class,
        )
        return proposals, projected


class TwoStageQueries(TokenProposals):
    """Two-stage queries made of boxes alone: the best proposals become references.

    Two-stage Deformable DETR (arXiv:2010.04159, section 4.2 and appendix A.4). Logit 0 of the class head's K says
    "an object"; content and position are projections of the selected boxes' encoding. Arguments as the base's.
    """

    any_class = True

    def __init__(self, count: int, width: int, class_head: nn.Linear, box_head: MLP) -> None:
        super().__init__(count, width, class_head, box_head)
        self.width = width
        self.box_projection = nn.Linear(2 * width, 2 * width)
        self.box_projection_norm = nn.LayerNorm(2 * width)
        nn.init.xavier_uniform_(self.box_projection.weight)

    @property
    def training_support(self) -> TrainingSupport:
        """Proposals scored as object or background."""
        return TrainingSupport(proposals="any-class")

    def forward(self, pyramid: Pyramid) -> Queries:
        """Tokens [B, S, D] -> content and position [B, Q, D], boxes_cxcywh [B, Q, 4]; Q is at most S."""
        proposals, _ = self.propose(pyramid)
        best = best_query_proposals(proposals.logits[..., 0].detach(), self.count)  # [B, Q]
        boxes = gather_tokens(proposals.boxes_cxcywh, best)  # [B, Q, 4]
        encoded = apply_layer_in_float32(self.box_projection, sine_boxes(boxes, self.width // 2))
        position, content = self.box_projection_norm(encoded).chunk(2, dim=-1)  # [B, Q, D] each
        return Queries(content, position, boxes, proposals=proposals)


class SelectedQueries(TokenProposals):
    """Two-stage queries made of tokens: those whose best class scores highest, with their boxes as references.

    RT-DETR (arXiv:2304.08069, section 4.3): trained with losses that tie class scores to IoU, the scores select tokens
    that are right in both. Arguments as the base's; the class head has a logit per class.
    """

    any_class = False

    def __init__(self, count: int, width: int, class_head: nn.Linear, box_head: MLP) -> None:
        super().__init__(count, width, class_head, box_head)
        self.label_embedding = LabelEmbedding(class_head.out_features, width)
        nn.init.xavier_uniform_(self.label_embedding.weight)

    @property
    def training_support(self) -> TrainingSupport:
        """Denoising, proposals scored per class."""
        return TrainingSupport(self.label_embedding, proposals="per-class")

    def forward(self, pyramid: Pyramid) -> Queries:
        """Tokens [B, S, D] -> content [B, Q, D], boxes_cxcywh [B, Q, 4]; Q is at most S. Position is zero."""
        proposals, projected = self.propose(pyramid)
        best = best_query_proposals(proposals.logits.detach().amax(-1), self.count)  # [B, Q]
        content = gather_tokens(projected, best)
        if self.training:  # all ranks must agree on which parameters have a gradient
            content = content + 0 * self.label_embedding.weight.sum().to(content.dtype)
        boxes = gather_tokens(proposals.boxes_cxcywh, best)
        return Queries(content, torch.zeros_like(content), boxes, proposals=replace(proposals, selected=best))


class DirectSelectedQueries(SelectedQueries):
    """The same, of the tokens as they are, without a projection (DEIMv2, arXiv:2509.20787)."""

    def __init__(self, count: int, width: int, class_head: nn.Linear, box_head: MLP) -> None:
        super().__init__(count, width, class_head, box_head)
        self.projection, self.projection_norm = nn.Identity(), nn.Identity()


def initial_proposals(pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """Return the boxes [B or 1, S, 4] that tokens propose from, and which propose nothing [B or 1, S, 1].

    Those are tokens in padding or at an edge.
    """
    assert pyramid.centres is not None, "the neck must give the centres of the tokens"
    sides = [FINEST_SIDE * 2.0**level for level in range(len(pyramid.levels))]
    start = proposal_boxes(pyramid.centres, pyramid.levels, sides)
    void = ((start <= EDGE) | (start >= 1 - EDGE)).any(-1, keepdim=True)
    return start, void if pyramid.padding is None else void | pyramid.padding[..., None]


def proposal_boxes(centres: Tensor, levels: Sequence[Level], sides: Sequence[float]) -> Tensor:
    """Return square boxes_cxcywh [B or 1, S, 4] around token centres [B or 1, S, 2], of one side per level."""
    lengths = [height * width for height, width in levels]
    side = torch.cat([centres.new_full((n,), s) for n, s in zip(lengths, sides, strict=True)])  # [S]
    return torch.cat([centres, side[:, None].expand_as(centres)], dim=-1)


def propose_boxes(head: MLP, tokens: Tensor, start: Tensor) -> Tensor:
    """Move boxes from their start logits [B or 1, S, 4]: [B, S, 4] in 0..1.

    Under autocast only the last layer is exact: there are many tokens.
    """
    return (apply_layer_in_float32(head.last, head.hidden(tokens)) + start).sigmoid()


def best_query_proposals(scores: Tensor, count: int) -> Tensor:
    """Return the indices [B, Q] of the highest scores [B, S], at most `count` of them."""
    return scores.topk(min(count, scores.shape[1]), dim=1).indices


def gather_tokens(x: Tensor, indices: Tensor) -> Tensor:
    """Pick rows [B, Q] of [B, S, n] without a gradient: [B, Q, n]."""
    return x.detach().gather(1, indices[..., None].expand(-1, -1, x.shape[2]))
