"""Placement of labels beside their boxes, inside the frame, and not on top of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detrscope.views.canvas import Box, Colour, Label, text_colour_on, text_size

MAX_OVERLAP = 0.25  # a label with more than this share under other labels is left out: it could not be read


def place_labels(
    boxes_xyxy: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    frame: tuple[float, float, float, float],
    max_overlap: float = MAX_OVERLAP,
) -> list[tuple[float, float] | None]:
    """Return left and top of each label, best boxes first; None for a label that finds no room.

    Each label takes the first of eight positions around and in its box that overlaps least with the labels already
    placed, and then with the other boxes.

    Args:
        boxes_xyxy: [n, 4] pixels.
        sizes: n widths and heights of the labels in pixels.
        frame: x0, y0, x1, y1 in pixels that no label leaves.
        max_overlap: a label with more than this share under other labels is left out.
    """
    placed = np.zeros((0, 4))
    positions: list[tuple[float, float] | None] = []
    for i, (width, height) in enumerate(sizes):
        x0, y0, x1, y1 = boxes_xyxy[i]
        corners = np.array(
            [
                (x0, y0 - height),  # above
                (x0, y1),  # below
                (x1 - width, y0 - height),
                (x1 - width, y1),
                (x0, y0),  # inside
                (x0, y1 - height),
                (x1, y0),  # beside
                (x0 - width, y0),
            ]
        )
        corners[:, 0] = np.clip(corners[:, 0], frame[0], max(frame[0], frame[2] - width))
        corners[:, 1] = np.clip(corners[:, 1], frame[1], max(frame[1], frame[3] - height))
        labels = np.concatenate([corners, corners + np.array([width, height])], axis=1)  # [8, 4]
        on_labels = _overlaps(labels, placed).sum(axis=1)
        on_boxes = _overlaps(labels, np.delete(boxes_xyxy, i, axis=0)).max(axis=1, initial=0)
        best = int(np.argmin(on_labels + 0.2 * on_boxes))
        if on_labels[best] > max_overlap:
            positions.append(None)
            continue
        placed = np.concatenate([placed, labels[best : best + 1]])
        positions.append((float(corners[best, 0]), float(corners[best, 1])))
    return positions


def labelled_boxes(
    boxes_xyxy: np.ndarray,
    texts: Sequence[str],
    colours: Sequence[Colour],
    frame: tuple[float, float, float, float],
    *,
    size: int,
    line: int,
) -> tuple[list[Box], list[Label]]:
    """Return outlines of boxes and labels in their colours, best boxes first; labels without room are left out.

    Args:
        boxes_xyxy: [n, 4] pixels.
        texts: n texts of the labels; empty for none at all.
        colours: n colours.
        frame: x0, y0, x1, y1 in pixels that no label leaves.
        size: font size in pixels.
        line: width of outlines in pixels.
    """
    boxes = [
        Box((x0, y0, x1, y1), colour, line)
        for (x0, y0, x1, y1), colour in zip(boxes_xyxy.tolist(), colours, strict=True)
    ]
    corners = place_labels(boxes_xyxy, [text_size(text, size) for text in texts], frame)
    labels = [
        Label(text, corner, size, colour, text_colour_on(colour))
        for text, corner, colour in zip(texts, corners, colours, strict=False)
        if corner is not None
    ]
    return boxes, labels


def _overlaps(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of each label that lies under each of the others: [n, 4], [m, 4] -> [n, m] in 0..1."""
    low = np.maximum(labels[:, None, :2], others[None, :, :2])  # [n, m, 2]
    high = np.minimum(labels[:, None, 2:], others[None, :, 2:])  # [n, m, 2]
    area = np.prod(labels[:, 2:] - labels[:, :2], axis=1)[:, None]
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=2) / area)
