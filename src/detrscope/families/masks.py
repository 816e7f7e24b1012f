"""The mask head as a setting of a family: none, or one of the designs in `blocks/masks.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from detrscope.blocks.masks import ConvMaskHead, MaskHead

MaskHeadName = Literal["none", "convolutional"]
MASK_HEAD_HELP = "mask head: none, or convolutional (DETR's: attention maps made finer by convolutions)"


def mask_stages(name: MaskHeadName, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Return the backbone's stages that give maps: those of the neck, and with a mask head all finer ones before."""
    return stages if name == "none" else (*range(1, stages[0]), *stages)


def build_mask_head(name: MaskHeadName, width: int, heads: int, channels: Sequence[int]) -> MaskHead | None:
    """Build a mask head with random weights.

    Args:
        name: its design.
        width: D.
        heads: attention heads.
        channels: of the backbone's maps in front of those of the neck, fine ones first.
    """
    return None if name == "none" else ConvMaskHead(width, heads, channels)
