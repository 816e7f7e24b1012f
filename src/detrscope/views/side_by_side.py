"""One image several times side by side: its ground truth, and the detections of several models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from detrscope.views.canvas import (
    WHITE,
    Box,
    Colour,
    ImageOverlay,
    Label,
    class_colours,
    resize_drawing,
    shorten_to_width,
    text_size,
)
from detrscope.views.label_placement import labelled_boxes

GAP = 8  # pixels between columns
SMALLEST, LARGEST = (
    400,
    800,
)  # pixels of the long side of a column: smaller images are enlarged, larger ones reduced
TITLE_SIZE = 15  # pixels


@dataclass(frozen=True)
class Column:
    """The image once, with boxes on it."""

    title: str
    boxes_xyxy: Tensor  # [n, 4] pixels of the image, most important first: where they crowd, the last lose their labels
    names: tuple[str, ...]  # n class names, for the colours
    texts: tuple[str, ...]  # n labels


def draw_side_by_side(
    image: Tensor, columns: Sequence[Column], path: str | Path | None = None, *, classes: Iterable[str] = ()
) -> ImageOverlay:
    """Draw an image once for each column, with that column's boxes and a title above it.

    Args:
        image: [3, H, W] uint8, the original upright image.
        columns: boxes in pixels of `image`.
        path: file to write; None to keep the drawing in memory.
        classes: all class names, for colours that stay the same between images.

    Returns:
        The drawing.
    """
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    longest = max(pixels.shape[:2])
    scale = min(LARGEST / longest, float(max(1, -(-SMALLEST // longest))))
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        pixels = resize_drawing(pixels, width, height)
    else:
        pixels = pixels.repeat(int(scale), axis=0).repeat(int(scale), axis=1)
    height, width = pixels.shape[:2]
    strip = text_size("", TITLE_SIZE)[1]
    sheet = np.full((strip + height, len(columns) * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    colours = class_colours([*classes, *(name for column in columns for name in column.names)])
    boxes: list[Box] = []
    labels: list[Label] = []
    for i, column in enumerate(columns):
        left = i * (width + GAP)
        sheet[strip:, left : left + width] = pixels
        labels.append(Label(shorten_to_width(column.title, TITLE_SIZE, width), (left, 0), TITLE_SIZE, WHITE))
        column_boxes, column_labels = _boxes_of(
            column, scale, (left, strip, left + width, strip + height), colours
        )
        boxes += column_boxes[::-1]  # the most important are drawn last: on top
        labels += column_labels[::-1]
    drawing = ImageOverlay(sheet, boxes, labels)
    if path is not None:
        drawing.save(path)
    return drawing


def _boxes_of(
    column: Column, scale: float, frame: tuple[int, int, int, int], colours: Mapping[str, Colour]
) -> tuple[list[Box], list[Label]]:
    """Return boxes and labels in pixels of the sheet, cut at the edges of the column so that outlines are visible."""
    x0, y0, x1, y1 = frame
    xyxy = column.boxes_xyxy.detach().cpu().double().numpy().reshape(-1, 4) * scale + np.array(
        [x0, y0, x0, y0]
    )
    size = max(11, round(max(x1 - x0, y1 - y0) / 70))
    return labelled_boxes(
        xyxy.clip((x0, y0, x0, y0), (x1, y1, x1, y1)),
        column.texts,
        [colours[name] for name in column.names],
        frame,
        size=size,
        line=2,
    )
