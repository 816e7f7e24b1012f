"""From the coarse logits of masks to the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.types import Masks

WHOLE = (1.0, 1.0)
AT_ONCE = 1 << 25  # pixels that are enlarged at a time: 128 MB of logits


def enlarge_logits(logits: Tensor, extent: tuple[float, float], height: int, width: int) -> Tensor:
    """Return the logits of masks at the pixels of an image, bilinear.

    Args:
        logits: [n, h, w] over the padded image.
        extent: part of height and width that is image, not padding, 0..1.
        height: of the image, in pixels.
        width: the same.

    Returns:
        [n, height, width] float32.
    """
    logits = logits.float()
    if extent == WHOLE:
        return F.interpolate(logits[:, None], size=(height, width), mode="bilinear")[:, 0]
    # From -1 to 1 along each side of the padded image; the image lies at the upper left.
    down, right = extent
    place = logits.new_tensor([[right, 0.0, right - 1], [0.0, down, down - 1]]).expand(len(logits), 2, 3)
    grid = F.affine_grid(place, [len(logits), 1, height, width], align_corners=False)
    return F.grid_sample(logits[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


def enlarge_masks(logits: Tensor, extent: tuple[float, float], height: int, width: int) -> Tensor:
    """Return masks at the pixels of an image, bool [n, height, width] on the CPU; arguments as `enlarge_logits`."""
    step = max(1, AT_ONCE // max(1, height * width))
    parts = [(enlarge_logits(part, extent, height, width) > 0).cpu() for part in torch.split(logits, step)]
    return torch.cat(parts) if parts else torch.zeros(0, height, width, dtype=torch.bool)


def masks_of_queries(masks: Masks, queries: Sequence[int], height: int, width: int) -> Tensor:
    """Return masks of some queries of a batch of one at `height` x `width` pixels, bool [n, height, width]."""
    down, right = WHOLE if masks.extent is None else masks.extent[0].tolist()
    return enlarge_masks(masks.logits[0, list(queries)], (down, right), height, width)
