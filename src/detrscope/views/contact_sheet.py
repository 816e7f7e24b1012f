"""Many small pictures with their boxes on one sheet: a dataset as the model will see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from detrscope.views.canvas import (
    BLACK,
    WHITE,
    Box,
    Drawing,
    ImageOverlay,
    Label,
    class_colours,
    resized,
    shortened,
    text_colour_on,
    text_size,
)
from detrscope.views.label_placement import place_labels

GAP = 12  # pixels between tiles
TYPE = 13  # pixels, height of the type
MOST_LABELS = 12  # a tile with more boxes has colours and no names: the names would hide the picture


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet."""

    image: Tensor  # [3, H, W] uint8
    boxes_xyxy: Tensor  # [M, 4] pixels of `image`
    names: tuple[str, ...]  # M class names
    title: str = ""


def contact_sheet(
    tiles: Sequence[Tile], path: str | Path | None = None, *, columns: int = 4, tile_size: int = 360
) -> Drawing:
    """Tiles in rows, each with its title above it, and a legend of the classes with their counts at the end.

    Args:
        tiles: the pictures with their boxes.
        path: where to save the sheet; None to keep it in memory.
        columns: tiles in a row; fewer when there are fewer tiles.
        tile_size: the longest side of a picture on the sheet in pixels; a larger picture is scaled down, a
            smaller one is not scaled up.

    Returns:
        The sheet.
    """
    columns = max(1, min(columns, len(tiles)))
    colours = class_colours(name for tile in tiles for name in tile.names)
    strip = text_size("", TYPE)[1]
    cells = [_Cell.of(tile, tile_size) for tile in tiles]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + strip for row in rows]
    width = max([columns * (max((c.width for c in cells), default=tile_size) + GAP)]) + GAP
    legend, legend_height = _legend(Counter(n for t in tiles for n in t.names), colours, width, strip)
    height = sum(heights) + GAP * (len(rows) + 1) + legend_height

    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    boxes: list[Box] = []
    labels: list[Label] = []
    top = GAP
    pitch = (width - GAP) // columns
    for row, row_height in zip(rows, heights, strict=True):
        for i, cell in enumerate(row):
            left = GAP + i * pitch
            labels.append(
                Label(shortened(cell.tile.title, TYPE, pitch - GAP), (left, top), TYPE, WHITE, BLACK)
            )
            sheet[top + strip : top + strip + cell.height, left : left + cell.width] = cell.pixels
            more_boxes, more_labels = cell.marks(left, top + strip, colours)
            boxes += more_boxes
            labels += more_labels
        top += row_height + GAP
    labels += [
        Label(item.text, (item.xy[0], item.xy[1] + top), TYPE, item.background, item.text_colour)
        for item in legend
    ]
    picture = ImageOverlay(sheet, boxes, labels)
    if path is not None:
        picture.save(path)
    return picture


@dataclass(frozen=True)
class _Cell:
    """A tile scaled to its place on the sheet."""

    tile: Tile
    pixels: np.ndarray  # uint8 [height, width, 3]
    scale: float

    @classmethod
    def of(cls, tile: Tile, size: int) -> _Cell:
        image = tile.image.permute(1, 2, 0).contiguous().cpu().numpy()
        height, width = image.shape[:2]
        scale = min(1.0, size / max(height, width))
        if scale < 1:
            image = resized(image, max(1, round(width * scale)), max(1, round(height * scale)))
        return cls(tile, image, scale)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def marks(
        self, left: int, top: int, colours: dict[str, tuple[int, int, int]]
    ) -> tuple[list[Box], list[Label]]:
        """Boxes and names in pixels of the sheet, large boxes first so that small ones stay visible."""
        xyxy = self.tile.boxes_xyxy.detach().cpu().double().numpy().reshape(-1, 4) * self.scale
        xyxy += np.array([left, top, left, top])
        order = np.argsort(-np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1), kind="stable")
        names = [self.tile.names[i] for i in order]
        xyxy = xyxy[order]
        boxes = [Box(_four(row), colours[name], 2) for row, name in zip(xyxy, names, strict=True)]
        if len(names) > MOST_LABELS:
            return boxes, []
        sizes = [text_size(name, TYPE - 2) for name in names]
        places = place_labels(xyxy, sizes, (left, top, left + self.width, top + self.height))
        labels = [
            Label(name, place, TYPE - 2, colours[name], text_colour_on(colours[name]))
            for name, place in zip(names, places, strict=True)
            if place is not None
        ]
        return boxes, labels


def _legend(
    counts: Counter[str], colours: dict[str, tuple[int, int, int]], width: int, strip: int
) -> tuple[list[Label], int]:
    """Class names with their counts in lines, most frequent first, and the height that they take."""
    labels: list[Label] = []
    x, y = GAP, 0
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        text = f"{name} {count}"
        needed = text_size(text, TYPE)[0]
        if x + needed > width - GAP and x > GAP:
            x, y = GAP, y + strip + 4
        labels.append(Label(text, (x, y), TYPE, colours[name], text_colour_on(colours[name])))
        x += needed + 6
    return labels, y + strip + GAP if labels else 0


def _four(row: np.ndarray) -> tuple[float, float, float, float]:
    return float(row[0]), float(row[1]), float(row[2]), float(row[3])
