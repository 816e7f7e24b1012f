"""Attention in the tiles of a large image, stitched together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detrscope.core.attention_map import Selection
from detrscope.core.geometry import Geometry
from detrscope.core.trace_data import TraceData
from detrscope.lens.maps import map_of_rows


def stitch_attention(
    traces: Sequence[TraceData],
    selection: Selection,
    threshold: float,
    size: tuple[int, int],
    smooth: bool = True,
) -> Tensor:
    """Return the cross-attention of the detections in all tiles, over the image.

    In each tile the maps of its detections are added up; a map sums to 1 over its tile, or less where deformable points
    fall outside. The result is the mean over the tiles that cover a pixel, so that an object that several tiles see
    counts once. It is 0 where no tile is.

    Args:
        traces: a trace of each tile, `crop_xyxy` being its place in the image.
        selection: site, head and level; the queries are those of the detections.
        threshold: least score of a detection.
        size: height and width of the result; the image is scaled to it.
        smooth: interpolate between centres of cells; otherwise spread each weight evenly over its cell.

    Returns:
        [height, width] float32, attention per pixel of the original image.

    Raises:
        UserError: no such head or level, or the site was not recorded.
    """
    total, tiles = torch.zeros(size), torch.zeros(size)
    for trace in traces:
        g = trace.geometry
        down, across = size[0] / g.height, size[1] / g.width
        x0, y0, x1, y1 = g.crop_xyxy
        left, top = round(x0 * across), round(y0 * down)
        right, bottom = max(left + 1, round(x1 * across)), max(top + 1, round(y1 * down))
        tiles[top:bottom, left:right] += 1
        queries = tuple(dict.fromkeys(trace.detections(threshold).query_ids.tolist()))
        if not queries:
            continue
        mean = map_of_rows(trace, replace(selection, queries=queries), "")
        place = Geometry.of_resize(bottom - top, right - left, g.content).padded_to(*g.padded)
        attention = replace(mean, geometry=place).on_image(smooth) * len(queries)
        total[top:bottom, left:right] += attention * down * across
    return total / tiles.clamp(min=1)
