"""The mask head as a setting of a family: none, or one of the designs in `blocks/masks.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from detrscope.blocks.masks import ConvMaskHead, DotProductMaskHead, MaskHead

MaskHeadName = Literal["none", "convolutional", "dot-product"]
TokenMaskHeadName = Literal["none", "dot-product"]
"""Mask heads of families whose finest map is the mask head's only map."""
DOT_PRODUCT_HELP = "dot-product (RF-DETR's: products of queries and pixels)"
MASK_HEAD_HELP = (
    f"mask head: none, convolutional (DETR's: attention maps refined by convolutions), or {DOT_PRODUCT_HELP}"
)
TOKEN_MASK_HEAD_HELP = f"mask head: none, or {DOT_PRODUCT_HELP}"


def mask_stages(name: MaskHeadName, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Return the backbone's stages that give maps: those of the neck, and all finer ones that a mask head takes."""
    return (*range(1, stages[0]), *stages) if name == "convolutional" else stages


def build_mask_head(
    name: MaskHeadName, width: int, heads: int, layers: int, channels: Sequence[int] = ()
) -> MaskHead | None:
    """Build a mask head with random weights.

    Args:
        name: its design.
        width: D.
        heads: attention heads.
        layers: decoder layers that predict.
        channels: of the backbone's maps in front of those of the neck, fine ones first.
    """
    if name == "dot-product":
        return DotProductMaskHead(width, layers)
    return None if name == "none" else ConvMaskHead(width, heads, channels)
