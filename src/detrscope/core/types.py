"""Data types of the path from image to boxes, and the legend of shapes.

B  images in the batch            N  decoder layers that predict      Q  queries
S  tokens of all feature maps     D  model width                      K  class logits
C  channels of a feature map      H, W  height, width                 M  boxes of one image
L  feature maps (levels)          h  attention heads                  d  D / h

Batch first everywhere. `padding` is True where there is padding. `boxes_cxcywh` is 0..1 of the image without its
padding, `boxes_xyxy` is pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from detrscope.core.argument_check import check_field_arguments
from detrscope.core.errors import UserError


@check_field_arguments
@dataclass(frozen=True)
class Target:
    """Ground truth of one image, as the losses take it."""

    labels: Tensor  # [M] int64, class index 0..classes-1 (not the category id)
    boxes_cxcywh: Tensor  # [M, 4] float32, 0..1 of the unpadded image
    masks: Tensor | None = None  # [M, H, W] bool, of the unpadded image; an empty one teaches nothing

    def to(self, device: torch.device | str) -> Target:
        """Return the target on `device`."""
        masks = None if self.masks is None else self.masks.to(device)
        return Target(self.labels.to(device), self.boxes_cxcywh.to(device), masks)


@dataclass(frozen=True, eq=False)
class Regions:
    """Segmentation of an image into parts and background, without overlap."""

    labels: Tensor  # [height, width] uint8, indices into `names`
    names: tuple[str, ...]

    def masks(self) -> dict[str, Tensor]:
        """Return the masks of the regions that occur: bool [height, width] by name."""
        masks = {name: self.labels == index for index, name in enumerate(self.names)}
        return {name: mask for name, mask in masks.items() if mask.any()}


@dataclass(frozen=True)
class Batch:
    """Normalised images of one size. `padding` is None where no image was padded."""

    images: Tensor  # [B, 3, H, W]
    padding: Tensor | None = None  # [B, H, W] bool

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor) or not isinstance(self.padding, Tensor | None):
            types = f"{type(self.images).__name__}, {type(self.padding).__name__}"
            raise UserError(f"Batch: expected images Tensor, padding Tensor or None, found {types}")

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        return Batch(self.images.to(device), None if self.padding is None else self.padding.to(device))


class Level(NamedTuple):
    """Size of one feature map in tokens."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Number of tokens of the map."""
        return self.height * self.width


@dataclass(frozen=True)
class Windows:
    """Division of a feature map into windows, within which its tokens attend to one another.

    Windows are equal but for the last of each axis, which are smaller where the map's sides are no multiples.
    """

    rows: int
    columns: int

    def sides(self, level: Level) -> tuple[int, int]:
        """Return height and width of a window of a map, in tokens."""
        # Not minus the floor of minus: exported graphs divide negative numbers otherwise.
        return (level.height + self.rows - 1) // self.rows, (level.width + self.columns - 1) // self.columns

    @property
    def count(self) -> int:
        """Number of windows."""
        return self.rows * self.columns

    def of_tokens(self, level: Level, device: torch.device | None = None) -> Tensor:
        """Return the index of each token's window: [H*W] int64."""
        height, width = self.sides(level)
        row = torch.arange(level.height, device=device) // height
        column = torch.arange(level.width, device=device) // width
        return (row[:, None] * self.columns + column).flatten()


@dataclass(frozen=True)
class Pyramid:
    """Feature maps as one sequence of tokens, fine levels first."""

    tokens: Tensor  # [B, S, D]
    position: Tensor  # [B, S, D] positional encoding
    levels: tuple[Level, ...]  # S = sum of height * width
    padding: Tensor | None = None  # [B, S] bool
    centres: Tensor | None = None  # [B or 1, S, 2] x, y of each token, 0..1 of the unpadded image

    def with_tokens(self, tokens: Tensor) -> Pyramid:
        """Return the pyramid with other tokens, such as the encoder's output."""
        return replace(self, tokens=tokens)


@dataclass(frozen=True)
class MaskFactors:
    """Masks as products: the logit of a pixel is the product of its features and the query's, plus a bias.

    A loss needs the masks of matched queries only, at some points only; these are made of the factors.
    """

    queries: Tensor  # [N, B, Q, D]
    pixels: tuple[Tensor, ...]  # N of [B, D, h, w], over the whole padded image
    bias: Tensor  # [1]
    extent: Tensor | None = None  # [B, 2] part of height and width that is image, not padding; None: all


@dataclass(frozen=True)
class Proposals:
    """Predictions of a two-stage family for every token; queries start from the best. Dense ones in training only."""

    logits: Tensor  # [B, S, K] one-to-one: one token predicts one object
    boxes_cxcywh: Tensor  # [B, S, 4]
    centres: Tensor  # [B or 1, S, 2] x, y of each token
    dense_logits: Tensor | None = None  # [B, S, K] one-to-many: every token inside an object predicts it
    dense_boxes_cxcywh: Tensor | None = None  # [B, S, 4]
    any_class: bool = False  # logit 0 stands for an object of any class
    selected: Tensor | None = None  # [B, Q] tokens that become queries, where only these are trained
    groups: int = 1  # in training: S and Q are so many groups, one after the other, each matched on its own
    content: Tensor | None = None  # [B, Q, D] features of the selected tokens, from which a head makes masks
    mask_factors: MaskFactors | None = (
        None  # of the selected tokens, N = 1; in training, of heads that have them
    )


@dataclass(frozen=True)
class Queries:
    """Input of the decoder."""

    content: Tensor  # [B, Q, D]
    position: Tensor  # [B, Q, D] added to queries and keys in self-attention, to queries in cross-attention
    boxes_cxcywh: Tensor | None = None  # [B, Q, 4] reference boxes, where the family has them
    points: Tensor | None = None  # [B, Q, 2] reference points x, y, 0..1, where the family has them
    mask: Tensor | None = None  # [Q, Q] bool, True where a query must not attend to another
    proposals: Proposals | None = None  # predictions that they were selected from

    def join(self, extra: Queries | None) -> Queries:
        """Return these queries with `extra` (denoising groups) in front; neither side attends to the other."""
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
        """Return the mask of the joined queries: the other side, and each side's own mask. [Qe+Q, Qe+Q]."""
        first, all_ = extra.content.shape[1], extra.content.shape[1] + self.content.shape[1]
        mask = torch.ones(all_, all_, dtype=torch.bool, device=self.content.device)
        for side, part in ((slice(0, first), extra.mask), (slice(first, all_), self.mask)):
            mask[side, side] = False if part is None else part
        return mask


@dataclass(frozen=True)
class EdgeEstimate:
    """Boxes after a decoder layer, their edges as distributions that the next layer refines (D-FINE)."""

    boxes_cxcywh: Tensor  # [B, Q, 4]
    start_cxcywh: Tensor  # [B, Q, 4] boxes whose edges the distributions move, predicted by the first layer
    logits: Tensor  # [B, Q, 4, R + 1] of the steps of left, top, right, bottom
    quality: Tensor  # [B, Q, 1] what the sharpness of the distributions adds to the class logits
    content: Tensor  # [B, Q, D] output of the layer


@dataclass(frozen=True)
class States:
    """Output of every decoder layer, the last at -1."""

    content: Tensor  # [N, B, Q, D]
    boxes_cxcywh: Tensor | None = None  # [N, B, Q, 4] boxes that the prediction of each layer refines
    proposals: Proposals | None = None
    estimates: tuple[EdgeEstimate, ...] = ()  # of each layer, where edges are distributions


@dataclass(frozen=True)
class EdgeDistributions:
    """Distributions of the edges of every decoder layer's boxes (D-FINE, arXiv:2410.13842, section 4.1)."""

    logits: Tensor  # [N, B, Q, 4, R + 1] of the steps of left, top, right, bottom
    start_cxcywh: Tensor  # [B, Q, 4] boxes whose edges they move, a prediction of the first layer themselves
    start_logits: Tensor  # [B, Q, K] classes predicted with them
    steps: Tensor  # [R + 1] step of each bin, in units of a side over `scale`
    scale: Tensor  # [1]

    def of_queries(self, chosen: slice) -> EdgeDistributions:
        """Return those of some queries."""
        start, logits = self.start_cxcywh[:, chosen], self.start_logits[:, chosen]
        return replace(self, logits=self.logits[:, :, chosen], start_cxcywh=start, start_logits=logits)


@dataclass(frozen=True)
class Masks:
    """Predicted masks of the queries of the last decoder layer."""

    logits: Tensor  # [B, Q, h, w] over the whole padded image; above 0 is inside
    extent: Tensor | None = None  # [B, 2] part of height and width that is image, not padding; None: all

    def of_image(self, index: int) -> Masks:
        """Return those of one image, as a batch of one in float32 on the CPU."""
        extent = None if self.extent is None else self.extent[index : index + 1].cpu()
        return Masks(self.logits[index : index + 1].detach().float().cpu(), extent)


@dataclass(frozen=True)
class Outputs:
    """Predictions of every decoder layer, the last at -1."""

    logits: Tensor  # [N, B, Q, K]
    boxes_cxcywh: Tensor  # [N, B, Q, 4]
    proposals: Proposals | None = None  # of two-stage families
    distributions: EdgeDistributions | None = None  # of families that predict edges as distributions
    masks: Masks | None = None  # of models with a mask head
    mask_factors: MaskFactors | None = None  # instead, in training, of heads whose masks are products


@dataclass(frozen=True, repr=False)
class Detections:
    """Detections in one image, best first, in pixels of the upright original."""

    boxes_xyxy: Tensor  # [n, 4] float32 pixels
    scores: Tensor  # [n] float32
    labels: Tensor  # [n] int64, original category ids
    names: tuple[str, ...]  # n class names
    query_ids: Tensor  # [n] int64
    height: int = 0
    width: int = 0
    source: str = ""
    tiles_xyxy: Tensor | None = (
        None  # [n, 4] int64 pixels, where the query found it; None for the image as a whole
    )
    masks: Tensor | None = None  # [n, height, width] bool, of models with a mask head
    track_ids: Tensor | None = None  # [n] int64, -1 where not (yet) part of a track; None where not tracked

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        best = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        listed = f": {', '.join(best[:4])}{', ...' if len(best) > 4 else ''}" if best else ""
        return (
            f"Detections({len(best)} in {self.source or 'an image'} of {self.width} x {self.height}{listed})"
        )

    def select(self, keep: Sequence[int]) -> Self:
        """Return some detections, by their indices, in that order."""
        index = torch.tensor(keep, dtype=torch.int64)
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        selected: dict[str, Any] = {n: part[index] for n, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **selected, names=tuple(self.names[i] for i in keep))
