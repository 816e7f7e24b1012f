"""Detections drawn on their image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from detrscope.core.attention_map import AttentionMap
from detrscope.core.types import Detections
from detrscope.views.canvas import (
    WHITE,
    Drawing,
    ImageOverlay,
    Label,
    class_colours,
    drawable_class_label,
    text_size,
    with_heatmap,
    with_masks,
    wrapped,
)
from detrscope.views.label_placement import labelled_boxes

SMALL = 400  # pixels: images with a shorter long side are enlarged by a whole number, for text to be readable
SMALL_VIDEO = 200  # the same for frames of videos, which keep their size where a label fits at all


def draw_detections(
    image: Tensor,
    detections: Detections,
    path: str | Path | None = None,
    *,
    classes: Iterable[str] = (),
    title: str = "",
    attention: AttentionMap | None = None,
    small: int = SMALL,
) -> Drawing:
    """Draw boxes with class names and scores on the original image, and masks where the detections have them.

    The drawing has the size of the image, save for a strip above it where there is a title and for images under
    `small` pixels, which are enlarged. The label of a tracked object has the number of its track: `dog #3 0.95`.
    Where boxes crowd, the best keep their labels and the others only have their colour.

    Args:
        image: [3, H, W] uint8, the original upright image.
        detections: detections with boxes in pixels of `image`.
        path: file to write; None to keep the drawing in memory.
        classes: all class names of the model, for colours that stay the same between images.
        title: line of text above the image.
        attention: map to draw over the image, which becomes grey; its colours go up to its own greatest value.
        small: images whose long side is shorter, in pixels, are enlarged by a whole number.

    Returns:
        The drawing.
    """
    background = image.permute(1, 2, 0).contiguous().cpu().numpy()
    if attention is not None:
        background = with_heatmap(background, attention.on_image().numpy())
    colours = class_colours([*classes, *detections.names])
    of_each = [colours[name] for name in detections.names]
    scale = max(1, -(-small // max(background.shape[:2])))
    if detections.masks is not None:
        thick = max(1, round(max(background.shape[:2]) * scale / 600) // scale)
        background = with_masks(background, detections.masks.cpu().numpy(), of_each, thick)
    if scale > 1:
        background = background.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = background.shape[:2]
    size = max(11, round(max(height, width) / 70))
    # Clipped at the edges so that their outlines are visible.
    boxes_xyxy = detections.boxes_xyxy.detach().cpu().double().numpy().reshape(-1, 4) * scale
    boxes_xyxy = boxes_xyxy.clip(0, (width, height, width, height))
    rows = zip(
        detections.names,
        detections.labels.tolist(),
        _track_labels(detections),
        detections.scores.tolist(),
        strict=True,
    )
    boxes, labels = labelled_boxes(
        boxes_xyxy,
        [f"{drawable_class_label(name, label)}{track} {score:.2f}" for name, label, track, score in rows],
        of_each,
        (0, 0, width, height),
        size=size,
        line=max(2, round(max(height, width) / 400)),
    )
    # The best are drawn last: on top.
    drawing = _with_title(ImageOverlay(background, boxes[::-1], labels[::-1]), title, size)
    if path is not None:
        drawing.save(path)
    return drawing


def _track_labels(detections: Detections) -> list[str]:
    """Return such as ` #3` for each detection of a track, and nothing for the others."""
    if detections.track_ids is None:
        return [""] * len(detections)
    return [f" #{track}" if track >= 0 else "" for track in detections.track_ids.tolist()]


def _with_title(drawing: ImageOverlay, title: str, size: int) -> ImageOverlay:
    """Return the drawing moved down under a white strip with the title."""
    if not title:
        return drawing
    line = text_size(title, size)[1]
    lines = wrapped(title, size, drawing.background.shape[1] - 2 * (size // 4))
    strip = line * len(lines)
    background = np.pad(drawing.background, ((strip, 0), (0, 0), (0, 0)), constant_values=255)
    boxes = []
    for box in drawing.boxes:
        x0, y0, x1, y1 = box.xyxy
        boxes.append(replace(box, xyxy=(x0, y0 + strip, x1, y1 + strip)))
    labels = [replace(label, xy=(label.xy[0], label.xy[1] + strip)) for label in drawing.labels]
    labels += [Label(text, (0, i * line), size, WHITE) for i, text in enumerate(lines)]
    return ImageOverlay(background, boxes, labels)
