"""What a model found, drawn on the picture it was found in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from detrscope.core.types import Detections
from detrscope.views.canvas import (
    BLACK,
    WHITE,
    Box,
    Colour,
    Drawing,
    ImageOverlay,
    Label,
    class_colours,
    class_label,
    text_colour_on,
    text_size,
    wrapped,
)
from detrscope.views.label_placement import place_labels

SMALL = 400  # pixels: pictures with a shorter long side are enlarged by a whole number, for type to be read


def draw_detections(
    image: Tensor,
    detections: Detections,
    path: str | Path | None = None,
    *,
    classes: Iterable[str] = (),
    title: str = "",
) -> Drawing:
    """Boxes with class names and scores on the original image.

    The picture has the size of the image, save for a strip above it where there is a title and for images
    under `SMALL` pixels, which are enlarged. Where boxes crowd, the best keep their labels and the others are
    left with their colour.

    Args:
        image: [3, H, W] uint8, the original upright image.
        detections: what was found, boxes in pixels of `image`.
        path: where to save the picture; None to keep it in memory.
        classes: all class names of the model, for colours that stay the same from picture to picture.
        title: a line above the picture.

    Returns:
        The picture.
    """
    background = image.permute(1, 2, 0).contiguous().cpu().numpy()
    height, width = background.shape[:2]
    scale = max(1, -(-SMALL // max(height, width)))
    background = background.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = background.shape[:2]
    line = max(2, round(max(height, width) / 400))
    size = max(11, round(max(height, width) / 70))

    colours = class_colours([*classes, *detections.names])
    boxes_xyxy = _in_frame(detections.boxes_xyxy, scale, width, height)
    rows_of = zip(detections.names, detections.labels.tolist(), detections.scores.tolist(), strict=True)
    texts = [f"{class_label(name, category_id)} {score:.2f}" for name, category_id, score in rows_of]
    places = place_labels(boxes_xyxy, [text_size(text, size) for text in texts], (0, 0, width, height))
    # The best are drawn last: on top.
    rows = list(zip(boxes_xyxy.tolist(), detections.names, texts, places, strict=True))[::-1]
    boxes = [Box((x0, y0, x1, y1), colours[name], line) for (x0, y0, x1, y1), name, _, _ in rows]
    labels = [_label(text, place, size, colours[name]) for _, name, text, place in rows if place is not None]
    scene = _with_title(ImageOverlay(background, boxes, labels), title, size)
    if path is not None:
        scene.save(path)
    return scene


def _in_frame(boxes: Tensor, scale: int, width: int, height: int) -> np.ndarray:
    """Boxes in pixels of the picture, cut off at its edges so that their outlines are seen."""
    pixels = boxes.detach().cpu().double().numpy().reshape(-1, 4) * scale
    return pixels.clip(0, (width, height, width, height))


def _label(text: str, place: tuple[float, float], size: int, colour: Colour) -> Label:
    return Label(text, place, size, colour, text_colour_on(colour))


def _with_title(scene: ImageOverlay, title: str, size: int) -> ImageOverlay:
    """The scene moved down under a white strip with the title."""
    if not title:
        return scene
    line = text_size(title, size)[1]
    lines = wrapped(title, size, scene.background.shape[1] - 2 * (size // 4))
    strip = line * len(lines)
    background = np.pad(scene.background, ((strip, 0), (0, 0), (0, 0)), constant_values=255)
    boxes = [
        Box((b.xyxy[0], b.xyxy[1] + strip, b.xyxy[2], b.xyxy[3] + strip), b.colour, b.width)
        for b in scene.boxes
    ]
    labels = [
        Label(t.text, (t.xy[0], t.xy[1] + strip), t.size, t.background, t.text_colour) for t in scene.labels
    ]
    titles = [Label(text, (0, i * line), size, WHITE, BLACK) for i, text in enumerate(lines)]
    return ImageOverlay(background, boxes, [*labels, *titles])
