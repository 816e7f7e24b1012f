"""Run a model on the tiles of a large image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from detrscope.console import log
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import Scored, postprocess
from detrscope.core.tile_merging import merge_tiles
from detrscope.core.tiling import Rect, Tiling
from detrscope.core.types import Outputs


def predict_tiles(
    predict: Callable[[Tensor], Outputs], card: ModelCard, image: Tensor, tiling: Tiling
) -> Scored:
    """Return the predictions of all tiles of an image, merged.

    Args:
        predict: runs the model on a normalised batch [B, 3, H, W].
        card: card of the model.
        image: uint8 [3, H, W], upright.
        tiling: size and overlap of the tiles.

    Returns:
        All predictions, best first, without masks: boxes in pixels of the image, each with its tile. Of an image that
        is not larger than a tile they are those without tiling.

    Raises:
        UserError: the image has too many tiles, or no size of a tile is known.
    """
    if card.has_masks:
        _say_once(card.variant)
    height, width = image.shape[-2:]
    parts = tiling.of_model(card.preprocessing).parts(height, width)
    found: list[tuple[Rect, Scored]] = []
    for size, group in groupby(parts, _size):
        same = [*group]
        for start in range(0, len(same), tiling.batch_size):
            batch = same[start : start + tiling.batch_size]
            images = [card.preprocessing.apply(image[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in batch]
            outputs = replace(predict(torch.stack(images)), masks=None)  # tiles are merged by their boxes
            scored = postprocess(outputs, card, [size] * len(batch))
            found += [(part, _moved(one, part)) for part, one in zip(batch, scored, strict=True)]
    return merge_tiles(found)


@cache
def _say_once(variant: str) -> None:
    log.warning("%s: tiles are merged by their boxes, and the masks of detections are left out", variant)


def _size(part: Rect) -> tuple[int, int]:
    """Return height and width."""
    return part[3] - part[1], part[2] - part[0]


def _moved(scored: Scored, part: Rect) -> Scored:
    """Return predictions in a tile with boxes in pixels of the image."""
    x, y = part[:2]
    return replace(scored, boxes_xyxy=scored.boxes_xyxy + scored.boxes_xyxy.new_tensor([x, y, x, y]))
