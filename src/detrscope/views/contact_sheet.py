"""Contact sheet: many small images with their boxes, such as a dataset after its transforms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from detrscope.views.canvas import (
    WHITE,
    Box,
    Colour,
    Drawing,
    ImageOverlay,
    Label,
    class_colours,
    resize_drawing,
    shorten_to_width,
    text_colour_on,
    text_size,
)
from detrscope.views.label_placement import labelled_boxes

GAP = 12  # pixels between tiles
FONT_SIZE = 13  # pixels
MAX_LABELS = 12  # a tile with more boxes has colours and no names: the names would hide the image


@dataclass(frozen=True)
class Tile:
    """One image of the sheet."""

    image: Tensor  # [3, H, W] uint8
    boxes_xyxy: Tensor  # [M, 4] pixels of `image`
    names: tuple[str, ...]  # M class names
    title: str = ""


def contact_sheet(
    tiles: Sequence[Tile], path: str | Path | None = None, *, columns: int = 4, tile_size: int = 360
) -> Drawing:
    """Draw tiles in rows, each below its title, and a legend of the classes with their counts.

    Args:
        tiles: images with their boxes.
        path: file to write; None to keep the drawing in memory.
        columns: tiles in a row; fewer when there are fewer tiles.
        tile_size: longest side of an image on the sheet in pixels; larger images are scaled down, smaller ones are not
            scaled up.

    Returns:
        The sheet.
    """
    columns = max(1, min(columns, len(tiles)))
    colours = class_colours(name for tile in tiles for name in tile.names)
    strip = text_size("", FONT_SIZE)[1]
    scaled = [_scaled(tile, tile_size) for tile in tiles]
    rows = [scaled[i : i + columns] for i in range(0, len(scaled), columns)]
    heights = [max(pixels.shape[0] for _, pixels, _ in row) + strip for row in rows]
    widest = max((pixels.shape[1] for _, pixels, _ in scaled), default=tile_size)
    width = columns * (widest + GAP) + GAP
    top_of_legend = sum(heights) + GAP * (len(rows) + 1)
    counts = Counter(name for tile in tiles for name in tile.names)
    labels, height = _legend(counts, colours, width, top_of_legend, strip)

    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    boxes: list[Box] = []
    top, pitch = GAP, widest + GAP
    for row, row_height in zip(rows, heights, strict=True):
        for i, (tile, pixels, scale) in enumerate(row):
            left, under = GAP + i * pitch, top + strip
            sheet[under : under + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            labels.append(
                Label(shorten_to_width(tile.title, FONT_SIZE, pitch - GAP), (left, top), FONT_SIZE, WHITE)
            )
            frame = (left, under, left + pixels.shape[1], under + pixels.shape[0])
            tile_boxes, tile_labels = _boxes_of(tile, scale, frame, colours)
            boxes += tile_boxes
            labels += tile_labels
        top += row_height + GAP
    drawing = ImageOverlay(sheet, boxes, labels)
    if path is not None:
        drawing.save(path)
    return drawing


def _scaled(tile: Tile, size: int) -> tuple[Tile, np.ndarray, float]:
    """Return the tile, its pixels on the sheet uint8 [height, width, 3], and their scale."""
    image = tile.image.permute(1, 2, 0).contiguous().cpu().numpy()
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    if scale < 1:
        image = resize_drawing(image, max(1, round(width * scale)), max(1, round(height * scale)))
    return tile, image, scale


def _boxes_of(
    tile: Tile, scale: float, frame: tuple[int, int, int, int], colours: Mapping[str, Colour]
) -> tuple[list[Box], list[Label]]:
    """Return boxes and names in pixels of the sheet, large boxes first so that small ones stay visible."""
    xyxy = tile.boxes_xyxy.detach().cpu().double().numpy().reshape(-1, 4) * scale + np.array(frame[:2] * 2)
    order = np.argsort(-np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1), kind="stable")
    names = [tile.names[i] for i in order]
    texts = names if len(names) <= MAX_LABELS else []
    return labelled_boxes(
        xyxy[order], texts, [colours[name] for name in names], frame, size=FONT_SIZE - 2, line=2
    )


def _legend(
    counts: Counter[str], colours: Mapping[str, Colour], width: int, top: int, strip: int
) -> tuple[list[Label], int]:
    """Return class names with their counts in lines, most frequent first, and the bottom of the last line."""
    labels: list[Label] = []
    x, y = GAP, top
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        text = f"{name} {count}"
        needed = text_size(text, FONT_SIZE)[0]
        if x + needed > width - GAP and x > GAP:
            x, y = GAP, y + strip + 4
        labels.append(Label(text, (x, y), FONT_SIZE, colours[name], text_colour_on(colours[name])))
        x += needed + 6
    return labels, y + strip + GAP if labels else top
