"""Query modules: tokens to the decoder's queries, and the training techniques they support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detrscope.blocks.layers import apply_layer_in_float32
from detrscope.core.types import Pyramid, Queries

PRIOR_LOGIT = (
    -4.0
)  # initial logit of a class: most tokens are background (focal loss, arXiv:1708.02002, section 4.1)


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
    """Training techniques that a model supports besides the set loss.

    The training step uses only these fields, so a new family needs no change there.

    Attributes:
        denoising: makes denoising queries; None where the model takes none.
        proposals: class logits of the encoder's proposals: one per class, or logit 0 for an object of any class; None
            where the encoder proposes nothing.
        one_to_many: whether `Outputs.proposals` has dense predictions in training mode, several for each object.
        distributions: whether `Outputs.distributions` has the edges of boxes.
    """

    denoising: LabelEmbedding | None = None
    proposals: Literal["per-class", "any-class"] | None = None
    one_to_many: bool = False
    distributions: bool = False


class QueryModule(nn.Module):
    """Base of all query modules: tokens [B, S, D] to queries."""

    @property
    def training_support(self) -> TrainingSupport:
        """Training techniques that these queries support."""
        return TrainingSupport()


class LearnedQueries(QueryModule):
    """Object queries of DETR: learned positions, content zero (DETR, section 3.2)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Embedding(count, width)

    def forward(self, pyramid: Pyramid) -> Queries:
        """Return the same Q queries for every image: content and position [B, Q, D]."""
        position = self.position.weight.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=torch.zeros_like(position), position=position)


class LearnedContent(QueryModule):
    """Object queries of the minimal DETR: learned content, no position."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.rand(count, width))

    def forward(self, pyramid: Pyramid) -> Queries:
        """Return the same Q queries for every image: content [B, Q, D], position zero."""
        content = self.content.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=content, position=content.new_zeros(1, 1, 1))


class PointQueries(QueryModule):
    """Learned content and positions; a linear layer turns each position into a reference point.

    Deformable DETR (arXiv:2010.04159, section 4.1, "deformable transformer decoder").
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, 2 * width)  # position and content, concatenated
        self.points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.points.weight)
        nn.init.zeros_(self.points.bias)

    def forward(self, pyramid: Pyramid) -> Queries:
        """Return the same Q queries for every image: content and position [B, Q, D], points [B, Q, 2]."""
        position, content = self.embedding.weight.chunk(2, dim=-1)  # [Q, D] each
        points = apply_layer_in_float32(self.points, position)  # [Q, 2]
        points = points.to(torch.promote_types(points.dtype, torch.float32)).sigmoid()
        images = pyramid.tokens.shape[0]
        return Queries(
            content=content.expand(images, -1, -1),
            position=position.expand(images, -1, -1),
            points=points.expand(images, -1, -1),
        )
