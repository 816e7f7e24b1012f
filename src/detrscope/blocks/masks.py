"""Mask heads: a mask for each query, from its state, the encoder's tokens and finer maps of the backbone.

A head of another design is another subclass of `MaskHead`, chosen by the family's build; the path, the losses, the
evaluation and the drawing know only `Outputs.masks`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.layers import Linear
from detrscope.core.types import MaskFactors, Masks, Outputs, Pyramid
from detrscope.ops.attention import joint_attention_map

MASK_STRIDE = 4  # pixels of the image for each pixel of a mask made of products


@dataclass(frozen=True)
class MaskInputs:
    """What a mask head reads of the path, all of the same batch."""

    finer: Sequence[Tensor]  # maps [B, C_l, H_l, W_l] in front of those of the neck, fine ones first
    before: Pyramid  # tokens of the neck, which the encoder has not changed yet
    after: Pyramid  # tokens of the encoder
    states: Tensor  # [N, B, Q, D] states of the model's own queries, after each decoder layer
    proposals: (
        Tensor | None
    )  # [B, Q, D] features of the tokens that queries were selected from, where they are kept
    size: tuple[int, int]  # height and width of the padded images, pixels


class LayerFactors(NamedTuple):
    """Factors of the masks of every decoder layer, and of the proposals where these have features."""

    layers: MaskFactors
    proposals: MaskFactors | None


class MaskHead(nn.Module, ABC):
    """Base of mask heads.

    Attributes:
        finer_maps: number of the backbone's first maps that only the mask head takes; the neck gets the others.
    """

    finer_maps: int

    @abstractmethod
    def forward(self, inputs: MaskInputs) -> Tensor | LayerFactors:
        """Return the logits of the last layer's masks, [B, Q, h, w], over the whole padded image.

        Heads whose masks are products return the factors of all layers in training.
        """


class AttentionMap2d(nn.Module):
    """Attention of queries over the pixels of a map, one softmax over all pixels and heads ("MHAttentionMap").

    It mixes no values: the map itself is what the convolutions take, so there is no record that rebuilds its output.

    Args:
        width: D of queries and tokens.
        heads: h.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        for projection in (self.query, self.key):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, states: Tensor, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """States [B, Q, D], tokens [B, S, D], padding [B, S] -> weights [B, Q, h, S]."""
        return joint_attention_map(self.query(states), self.key(tokens), heads=self.heads, padding=padding)


class ConvGroupNorm(nn.Module):
    """3x3 convolution, group norm, ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(8, width), width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        return F.relu(self.norm(self.conv(x)))


class ConvMaskHead(MaskHead):
    """DETR's mask head: attention maps and features of the coarse map, made finer by convolutions (section 4.4).

    The coarse map is the last level of the pyramid. Every step to a finer map of the backbone halves the channels.

    Args:
        width: D.
        heads: h of the attention map.
        channels: of the finer maps, fine ones first.
    """

    def __init__(self, width: int, heads: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.finer_maps = len(channels)
        self.attention = AttentionMap2d(width, heads)
        self.mix = ConvGroupNorm(width + heads, width + heads)
        sizes = [max(1, width >> step) for step in range(1, len(channels) + 2)]  # D/2, D/4, D/8, D/16 ...
        self.reduce = ConvGroupNorm(width + heads, sizes[0])
        coarse_first = channels[::-1]
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, size, 1) for c, size in zip(coarse_first, sizes, strict=False)
        )
        self.fusions = nn.ModuleList(ConvGroupNorm(size, following) for size, following in pairwise(sizes))
        self.output = nn.Conv2d(sizes[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: MaskInputs) -> Tensor:
        """Return the logits of the masks, [B, Q, h, w], of the size of the finest map."""
        level = inputs.after.levels[-1]
        coarse = slice(inputs.after.tokens.shape[1] - level.tokens, None)
        padding = None if inputs.after.padding is None else inputs.after.padding[:, coarse]
        weights = self.attention(inputs.states[-1], inputs.after.tokens[:, coarse], padding)  # [B, Q, h, S]
        batch, queries, heads = weights.shape[:3]
        maps = weights.reshape(batch * queries, heads, *level)  # [B*Q, h, H, W]
        features = inputs.before.tokens[:, coarse].transpose(1, 2)  # [B, D, S]
        features = features.reshape(batch, -1, *level)  # [B, D, H, W]
        x = self.reduce(self._mixed(features, maps))
        for lateral, fusion, finer in zip(self.laterals, self.fusions, reversed(inputs.finer), strict=True):
            side = lateral(finer)  # [B, C, H_l, W_l]: once for an image, not for each query
            x = F.interpolate(x, size=side.shape[-2:], mode="nearest")
            x = fusion(_per_query(x, batch).add(side[:, None]).flatten(0, 1))
        masks: Tensor = self.output(x)  # [B*Q, 1, h, w]
        return masks.reshape(batch, queries, *masks.shape[2:])

    def _mixed(self, features: Tensor, maps: Tensor) -> Tensor:
        """Convolve features [B, D, H, W] of each image beside maps [B*Q, h, H, W] of its queries.

        A convolution is a sum over channels: the part of the features is the same for every query of an image.
        """
        conv = self.mix.conv
        own = features.shape[1]
        of_image = F.conv2d(features, conv.weight[:, :own], conv.bias, padding=1)  # [B, C, H, W]
        of_query = F.conv2d(maps, conv.weight[:, own:], padding=1)  # [B*Q, C, H, W]
        both = _per_query(of_query, features.shape[0]) + of_image[:, None]
        return F.relu(self.mix.norm(both.flatten(0, 1)))


class PixelBlock(nn.Module):
    """Depthwise 3x3 convolution, layer norm of each pixel, linear layer, GELU; added to its input.

    ConvNeXt's block (arXiv:2201.03545) without the wider layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, D, H, W]."""
        changed = F.gelu(self.linear(self.norm(self.conv(x).permute(0, 2, 3, 1))))
        return x + changed.permute(0, 3, 1, 2)


class DotProductMaskHead(MaskHead):
    """RF-DETR's mask head: products of features of queries and of pixels, at a quarter of the image's size.

    The finest map of the encoder is enlarged once and passes one block for each decoder layer, which predicts masks
    from the pixels after it. Selected tokens predict masks, too, from the pixels before the first block, in training
    (RF-DETR, arXiv:2511.09554, section 3; Mask DINO, arXiv:2206.02777, section 3.2).

    Args:
        width: D.
        layers: N, decoder layers that predict.
    """

    finer_maps = 0

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PixelBlock(width) for _ in range(layers))
        self.pixel_projection = nn.Conv2d(width, width, 1)
        self.query_norm = nn.LayerNorm(width)
        self.query_expand = Linear(width, 4 * width)
        self.query_contract = Linear(4 * width, width)
        self.query_projection = Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: MaskInputs) -> Tensor | LayerFactors:
        """Return the logits of the last layer's masks, [B, Q, H/4, W/4]; in training the factors of all masks."""
        level = inputs.after.levels[0]
        tokens = inputs.after.tokens[:, : level.tokens].transpose(1, 2)  # [B, D, S]
        height, width = inputs.size
        x = first = F.interpolate(
            tokens.reshape(*tokens.shape[:2], *level),
            size=(height // MASK_STRIDE, width // MASK_STRIDE),
            mode="bilinear",
            align_corners=False,
        )
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        if not self.training:
            pixels = self.pixel_projection(x)
            logits: Tensor = self._of_queries(inputs.states[-1]) @ pixels.flatten(2) + self.bias
            return logits.reshape(*logits.shape[:2], *pixels.shape[2:])
        projected = tuple(self.pixel_projection(x) for x in maps)
        layers = MaskFactors(self._of_queries(inputs.states), projected, self.bias)
        if inputs.proposals is None:
            return LayerFactors(layers, None)
        proposals = MaskFactors(self._of_queries(inputs.proposals)[None], (first,), self.bias)
        return LayerFactors(layers, proposals)

    def _of_queries(self, states: Tensor) -> Tensor:
        """Return the features of queries that pixels are multiplied with: [..., D] -> [..., D]."""
        changed = self.query_contract(F.gelu(self.query_expand(self.query_norm(states))))
        projected: Tensor = self.query_projection(states + changed)
        return projected


def _per_query(x: Tensor, batch: int) -> Tensor:
    """[B*Q, C, H, W] -> [B, Q, C, H, W]."""
    return x.reshape(batch, -1, *x.shape[1:])


def image_extent(padding: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the part of height and width that is image, [B, 2] in 0..1, of padding [B, H, W]; None without padding."""
    if padding is None:
        return None
    inside = (~padding).to(torch.float32)
    return torch.stack([inside.amax(2).mean(1), inside.amax(1).mean(1)], 1).to(like.device)


def with_masks(outputs: Outputs, made: Tensor | LayerFactors, extent: Tensor | None) -> Outputs:
    """Return outputs with what a mask head made.

    Args:
        outputs: predictions without masks.
        made: logits [B, Q, h, w], or factors.
        extent: [B, 2] part of height and width that is image; None: all.
    """
    if isinstance(made, Tensor):
        return replace(outputs, masks=Masks(made, extent))
    proposals = outputs.proposals
    if proposals is not None and made.proposals is not None:
        proposals = replace(proposals, mask_factors=replace(made.proposals, extent=extent))
    return replace(outputs, proposals=proposals, mask_factors=replace(made.layers, extent=extent))
