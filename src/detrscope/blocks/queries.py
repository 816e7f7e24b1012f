"""Query modules: tokens to the decoder's queries, and what they let training ask of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detrscope.blocks.layers import MLP
from detrscope.core.types import Proposals, Pyramid, Queries
from detrscope.ops.position import inverse_sigmoid, sine_boxes, token_places

PRIOR_LOGIT = (
    -4.0
)  # logit of a class at the start: most places hold nothing (focal loss, arXiv:1708.02002, section 4.1)

SMALLEST = 0.05  # side of the boxes that the finest map's tokens propose, 0..1; doubled from map to map
EDGE = 0.01  # tokens whose proposed box has a number nearer to 0 or 1 propose nothing


class LabelEmbedding(nn.Embedding):
    """Denoising queries: content embeds a class, the box is a noised ground-truth box (DN-DETR, arXiv:2203.01305)."""

    def queries(self, labels: Tensor, boxes_cxcywh: Tensor, mask: Tensor) -> Queries:
        """Return extra queries for `DetectionTransformer.forward`.

        Args:
            labels: class indices [B, E], 0..`num_embeddings` - 1.
            boxes_cxcywh: reference boxes [B, E, 4].
            mask: [E, E], True between queries of different groups, which must not attend to each other.
        """
        content = self(labels)  # [B, E, D]
        return Queries(content, torch.zeros_like(content), boxes_cxcywh, mask)


@dataclass(frozen=True)
class TrainingSupport:
    """Training techniques that a model supports beside the set loss on its predictions.

    The training step reads these fields and never asks for a class, so a new family needs no change there.

    Attributes:
        denoising: makes denoising queries; None where the model takes none.
        proposals: class logits of the encoder's proposals: one per class, or logit 0 for an object of any class; None
            where the encoder proposes nothing.
        one_to_many: whether `Outputs.proposals` has dense predictions in training mode, several for each object.
    """

    denoising: LabelEmbedding | None = None
    proposals: Literal["per-class", "any-class"] | None = None
    one_to_many: bool = False


class QueryModule(nn.Module):
    """Base of all query modules: tokens [B, S, D] to queries."""

    @property
    def training_support(self) -> TrainingSupport:
        """Training techniques that these queries support."""
        return TrainingSupport()


class LearnedQueries(QueryModule):
    """DETR's object queries: learned positions, content zero (DETR, section 3.2)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Embedding(count, width)

    def forward(self, pyramid: Pyramid) -> Queries:
        """The same Q queries for every image: content and position [B, Q, D]."""
        position = self.position.weight.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=torch.zeros_like(position), position=position)


class LearnedContent(QueryModule):
    """Learned vectors that are the queries' content; no position (the minimal DETR)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.rand(count, width))

    def forward(self, pyramid: Pyramid) -> Queries:
        """The same Q queries for every image: content [B, Q, D], position zero."""
        content = self.content.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=content, position=content.new_zeros(1, 1, 1))


class TwoStageQueries(QueryModule):
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
        self.label_embedding = LabelEmbedding(classes, width)
        for class_head in (self.class_head, self.dense_class_head):
            nn.init.constant_(class_head.bias, PRIOR_LOGIT)
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
        return self.label_embedding.queries(labels, boxes_cxcywh, mask)

    @property
    def training_support(self) -> TrainingSupport:
        """Denoising, proposals scored per class, one-to-many proposals."""
        return TrainingSupport(self.label_embedding, proposals="per-class", one_to_many=True)

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


class PointQueries(QueryModule):
    """Learned content and positions; each position gives its reference point by a linear layer.

    Deformable DETR (arXiv:2010.04159, section 4.1, "deformable transformer decoder").
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, 2 * width)  # position and content side by side
        self.points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.points.weight)
        nn.init.zeros_(self.points.bias)

    def forward(self, pyramid: Pyramid) -> Queries:
        """The same Q queries for every image: content and position [B, Q, D], points [B, Q, 2]."""
        position, content = self.embedding.weight.chunk(2, dim=-1)  # [Q, D] each
        with torch.autocast(position.device.type, enabled=False):
            points = self.points(position)  # [Q, 2]
        points = points.to(torch.promote_types(points.dtype, torch.float32)).sigmoid()
        images = pyramid.tokens.shape[0]
        return Queries(
            content=content.expand(images, -1, -1),
            position=position.expand(images, -1, -1),
            points=points.expand(images, -1, -1),
        )


class ProposedQueries(QueryModule):
    """Every token proposes a box, told apart from background; the best become reference boxes.

    Two-stage Deformable DETR (arXiv:2010.04159, section 4.2 and appendix A.4). Content and positions are made of the
    boxes alone. The class head has K logits, of which the first says "an object".

    Args:
        count: Q.
        width: D.
        class_head: [B, S, D] -> [B, S, K].
        box_head: [B, S, D] -> [B, S, 4].
    """

    def __init__(self, count: int, width: int, class_head: nn.Linear, box_head: MLP) -> None:
        super().__init__()
        self.count = count
        self.width = width
        self.projection = nn.Linear(width, width)
        self.projection_norm = nn.LayerNorm(width)
        self.class_head = class_head
        self.box_head = box_head
        self.place = nn.Linear(2 * width, 2 * width)
        self.place_norm = nn.LayerNorm(2 * width)
        for linear in (self.projection, self.place):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, pyramid: Pyramid) -> Queries:
        """Tokens [B, S, D] -> content and position [B, Q, D], boxes_cxcywh [B, Q, 4]; Q is at most S."""
        proposals = self._propose(pyramid)
        objects = proposals.logits[..., 0].detach()  # [B, S]
        best = objects.topk(min(self.count, objects.shape[1]), dim=1).indices[..., None]  # [B, Q, 1]
        boxes = proposals.boxes_cxcywh.detach().gather(1, best.expand(-1, -1, 4))  # [B, Q, 4]
        place = self.place_norm(_exact(self.place, sine_boxes(boxes, self.width // 2)))  # [B, Q, 2D]
        position, content = place.chunk(2, dim=-1)  # [B, Q, D] each
        return Queries(content, position, boxes, proposals=proposals)

    @property
    def training_support(self) -> TrainingSupport:
        """Proposals told apart from background, one-to-one."""
        return TrainingSupport(proposals="any-class")

    def _propose(self, pyramid: Pyramid) -> Proposals:
        tokens = pyramid.tokens
        centres = token_places(pyramid.padding, pyramid.levels, tokens)  # [B or 1, S, 2]
        sides = [SMALLEST * 2.0**level for level in range(len(pyramid.levels))]
        lengths = [height * width for height, width in pyramid.levels]
        side = torch.cat([centres.new_full((n,), s) for n, s in zip(lengths, sides, strict=True)])  # [S]
        start = torch.cat([centres, side[:, None].expand_as(centres)], dim=-1)  # [B or 1, S, 4]
        void = ((start <= EDGE) | (start >= 1 - EDGE)).any(-1, keepdim=True)  # [B or 1, S, 1]
        if pyramid.padding is not None:
            void = void | pyramid.padding[..., None]
        seen = self.projection_norm(self.projection(tokens.masked_fill(void, 0.0)))  # [B, S, D]
        boxes = _boxes(self.box_head, seen, inverse_sigmoid(start))  # [B, S, 4]
        return Proposals(
            logits=_exact(self.class_head, seen),
            boxes_cxcywh=boxes.masked_fill(void, 1.0),  # as published: the limit of an infinite logit
            centres=centres,
            any_class=True,
        )


def _exact(head: nn.Linear, x: Tensor) -> Tensor:
    """A head's answer in the precision of its weights: boxes and scores want more bits than bf16 has."""
    with torch.autocast(x.device.type, enabled=False):
        return head(x.to(head.weight.dtype))


def _boxes(head: MLP, tokens: Tensor, start: Tensor) -> Tensor:
    """Boxes moved from where they start; there are many tokens, so only the last layer is exact under autocast."""
    return (_exact(head.last, head.hidden(tokens)) + start).sigmoid()
