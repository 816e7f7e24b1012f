"""What flows along the path, and the one shape legend.

B  images in the batch            N  decoder layers that predict      Q  queries
S  tokens of all feature maps     D  model width                      K  class logits
C  channels of a feature map      H, W  height, width                 M  boxes of one image
L  feature maps (levels)          h  attention heads                  d  D / h

Batch first everywhere. `padding` is True where there is padding. `boxes_cxcywh` is 0..1 of the image without its
padding, `boxes_xyxy` is pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from detrscope.core.argument_check import checked_fields
from detrscope.core.errors import UserError


@checked_fields
@dataclass(frozen=True)
class Target:
    """The truth of one image, as the losses want it."""

    labels: Tensor  # [M] int64, class index 0..classes-1 (not the category id)
    boxes_cxcywh: Tensor  # [M, 4] float32, 0..1 of the unpadded image

    def to(self, device: torch.device | str) -> Target:
        """The same truth on `device`."""
        return Target(self.labels.to(device), self.boxes_cxcywh.to(device))


@dataclass(frozen=True, eq=False)
class Regions:
    """What lies under each pixel of an image, such as ears and background, without overlap."""

    labels: Tensor  # [height, width] uint8, places in `names`
    names: tuple[str, ...]

    def masks(self) -> dict[str, Tensor]:
        """Those that can be seen: bool [height, width] by name."""
        masks = {name: self.labels == index for index, name in enumerate(self.names)}
        return {name: mask for name, mask in masks.items() if mask.any()}


@dataclass(frozen=True)
class Batch:
    """Normalised images of one size. `padding` is None where no image was padded."""

    images: Tensor  # [B, 3, H, W]
    padding: Tensor | None = None  # [B, H, W] bool

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor) or not isinstance(self.padding, Tensor | None):
            found = type(self.images).__name__, type(self.padding).__name__
            raise UserError(
                f"Batch: expected images Tensor, padding Tensor or None, found {found[0]}, {found[1]}"
            )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(self.images.to(device), None if self.padding is None else self.padding.to(device))


class Level(NamedTuple):
    """The size of one feature map in tokens."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """How many tokens the map has."""
        return self.height * self.width


@dataclass(frozen=True)
class Pyramid:
    """Feature maps as one row of tokens, coarse levels after fine ones."""

    tokens: Tensor  # [B, S, D]
    position: Tensor  # [B, S, D] positional encoding
    levels: tuple[Level, ...]  # S = sum of height * width
    padding: Tensor | None = None  # [B, S] bool
    centres: Tensor | None = None  # [B or 1, S, 2] x, y of each token, 0..1 of the unpadded image

    def with_tokens(self, tokens: Tensor) -> Pyramid:
        """The same places holding other tokens, such as the encoder's output."""
        return replace(self, tokens=tokens)


@dataclass(frozen=True)
class Proposals:
    """What a two-stage family says of every token; queries start from the best. Dense ones exist in training only."""

    logits: Tensor  # [B, S, K] one-to-one: one token answers for one object
    boxes_cxcywh: Tensor  # [B, S, 4]
    centres: Tensor  # [B or 1, S, 2] where the tokens are
    dense_logits: Tensor | None = None  # [B, S, K] one-to-many: every token inside an object answers for it
    dense_boxes_cxcywh: Tensor | None = None  # [B, S, 4]
    any_class: bool = False  # logit 0 stands for an object of whatever class


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from."""

    content: Tensor  # [B, Q, D]
    position: Tensor  # [B, Q, D] added to queries and keys in self-attention, to queries in cross-attention
    boxes_cxcywh: Tensor | None = None  # [B, Q, 4] reference boxes, where the family has them
    points: Tensor | None = None  # [B, Q, 2] reference points x, y, 0..1, where the family starts from those
    mask: Tensor | None = None  # [Q, Q] bool, True where a query must not look at another
    proposals: Proposals | None = None  # what they were chosen from

    def join(self, extra: Queries | None) -> Queries:
        """These queries with `extra` (denoising groups) in front; neither side sees the other."""
        if extra is None:
            return self
        boxes = None
        if self.boxes_cxcywh is not None and extra.boxes_cxcywh is not None:
            boxes = torch.cat([extra.boxes_cxcywh, self.boxes_cxcywh], dim=1)  # [B, Qe+Q, 4]
        return replace(
            self,
            content=torch.cat([extra.content, self.content], dim=1),  # [B, Qe+Q, D]
            position=torch.cat([extra.position, self.position], dim=1),  # [B, Qe+Q, D]
            boxes_cxcywh=boxes,
            mask=self._mask_with(extra),
        )

    def _mask_with(self, extra: Queries) -> Tensor:
        """What no query may look at: the other side, and what each side's own mask says. [Qe+Q, Qe+Q]."""
        first, all_ = extra.content.shape[1], extra.content.shape[1] + self.content.shape[1]
        mask = torch.ones(all_, all_, dtype=torch.bool, device=self.content.device)
        for side, part in ((slice(0, first), extra.mask), (slice(first, all_), self.mask)):
            mask[side, side] = False if part is None else part
        return mask


@dataclass(frozen=True)
class States:
    """What the decoder ends with: every layer, the last at -1."""

    content: Tensor  # [N, B, Q, D]
    boxes_cxcywh: Tensor | None = None  # [N, B, Q, 4] boxes that each layer's prediction refines
    proposals: Proposals | None = None


@dataclass(frozen=True)
class Outputs:
    """Predictions of every decoder layer, the last at -1."""

    logits: Tensor  # [N, B, Q, K]
    boxes_cxcywh: Tensor  # [N, B, Q, 4]
    proposals: Proposals | None = None  # of two-stage families


@dataclass(frozen=True)
class Detections:
    """The kept predictions of one image, best first. Pixels are those of the original image, upright."""

    boxes_xyxy: Tensor  # [n, 4] float32 pixels
    scores: Tensor  # [n] float32
    labels: Tensor  # [n] int64, original category ids
    names: tuple[str, ...]  # n class names
    query_ids: Tensor  # [n] int64
    height: int = 0
    width: int = 0
    source: str = ""

    def __len__(self) -> int:
        return len(self.scores)
