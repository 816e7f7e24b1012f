"""Where the decoder's queries come from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrscope.blocks.layers import MLP
from detrscope.core.types import Proposals, Pyramid, Queries
from detrscope.ops.position import inverse_sigmoid

RARE = (
    -4.0
)  # logit of a class at the start: most places hold nothing (focal loss, arXiv:1708.02002, section 4.1)


class LearnedQueries(nn.Module):
    """DETR's object queries: learned positions, content zero (DETR, section 3.2)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Embedding(count, width)

    def forward(self, pyramid: Pyramid) -> Queries:
        """The same Q queries for every image: content and position [B, Q, D]."""
        position = self.position.weight.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=torch.zeros_like(position), position=position)


class LearnedContent(nn.Module):
    """Learned vectors that are the queries' content; no position (the minimal DETR)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.rand(count, width))

    def forward(self, pyramid: Pyramid) -> Queries:
        """The same Q queries for every image: content [B, Q, D], position zero."""
        content = self.content.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=content, position=content.new_zeros(1, 1, 1))


class TwoStageQueries(nn.Module):
    """Every token proposes a class and a box; the best proposals become the queries' reference boxes.

    Two-stage selection as in Deformable DETR (arXiv:2010.04159, section 4) and DINO (arXiv:2203.03605, section 3.4):
    content is learned, the chosen token's features are added. A second pair of heads, one-to-many and used in training
    only, makes the tokens good at it sooner.

    Args:
        count: queries per image.
        width: D.
        classes: K.
        sizes: side of a box proposed at the start, 0..1 of the image, for each level.
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
        self.label_embedding = nn.Embedding(classes, width)
        for class_head in (self.class_head, self.dense_class_head):
            nn.init.constant_(class_head.bias, RARE)
        for box_head in (self.box_head, self.dense_box_head):
            nn.init.zeros_(box_head.last.weight)
            nn.init.zeros_(box_head.last.bias)

    def forward(self, pyramid: Pyramid) -> Queries:
        """Tokens [B, S, D] -> content [B, Q, D], boxes_cxcywh [B, Q, 4]; Q is at most the number of tokens."""
        proposals = self._propose(pyramid)
        scores = proposals.logits.detach().amax(-1)  # [B, S]
        if pyramid.padding is not None:
            scores = scores.masked_fill(pyramid.padding, float("-inf"))
        best = scores.topk(min(self.count, scores.shape[1]), dim=1).indices[..., None]  # [B, Q, 1]
        boxes = proposals.boxes_cxcywh.detach().gather(1, best.expand(-1, -1, 4))
        features = pyramid.tokens.detach().gather(1, best.expand(-1, -1, pyramid.tokens.shape[2]))
        content = self.content[: best.shape[1]].to(features.dtype) + features
        if self.training:  # devices that train together must agree on what has a gradient, boxes or not
            content = content + 0 * self.label_embedding.weight.sum().to(features.dtype)
        return Queries(content, torch.zeros_like(content), boxes, proposals=proposals)

    def from_labels(self, labels: Tensor, boxes_cxcywh: Tensor, mask: Tensor) -> Queries:
        """Extra queries, told a class [B, E] and a box [B, E, 4] each; mask [E, E] is True between strangers."""
        content = self.label_embedding(labels)  # [B, E, D]
        return Queries(content, torch.zeros_like(content), boxes_cxcywh, mask)

    def _propose(self, pyramid: Pyramid) -> Proposals:
        assert pyramid.centres is not None, "the neck must say where tokens are"
        tokens, centres = pyramid.tokens, pyramid.centres
        lengths = [level.height * level.width for level in pyramid.levels]
        size = torch.cat([centres.new_full((n,), s) for n, s in zip(lengths, self.sizes, strict=True)])  # [S]
        start = torch.cat([centres, size[:, None].expand_as(centres)], dim=-1)  # [B or 1, S, 4]
        start = inverse_sigmoid(start)
        return Proposals(
            logits=_exact(self.class_head, tokens),
            boxes_cxcywh=_boxes(self.box_head, tokens, start),
            centres=centres,
            dense_logits=_exact(self.dense_class_head, tokens) if self.training else None,
            dense_boxes_cxcywh=_boxes(self.dense_box_head, tokens, start) if self.training else None,
        )


def _exact(head: nn.Linear, x: Tensor) -> Tensor:
    """A head's answer in the precision of its weights: boxes and scores want more bits than bf16 has."""
    with torch.autocast(x.device.type, enabled=False):
        return head(x.to(head.weight.dtype))


def _boxes(head: MLP, tokens: Tensor, start: Tensor) -> Tensor:
    """Boxes moved from where they start; there are many tokens, so only the last layer is exact under autocast."""
    return (_exact(head.last, head.hidden(tokens)) + start).sigmoid()
