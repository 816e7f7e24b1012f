"""Small pictures with a box, as JPEG files for pages."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from detrscope.views.canvas.colours import Colour

FAR = 1e4  # pixels: where a box that lies far outside ends
LEAST = 24.0  # pixels of the image that a picture of a small box shows at least


def box_thumbnail(
    image: np.ndarray,
    box_xyxy: tuple[float, float, float, float] | None,
    colour: Colour,
    *,
    side: int,
    margin: float | None = None,
    quality: int = 85,
) -> bytes:
    """Return an image, or the surroundings of a box in it, as a small JPEG with the box.

    Args:
        image: uint8 [H, W, 3].
        box_xyxy: pixels; it may lie outside of the image, its corners in any order. None draws none.
        colour: of the box.
        side: pixels of the longer side.
        margin: context around the box, as a part of its longer side; None shows the whole image.
        quality: of the JPEG.
    """
    height, width = image.shape[:2]
    box = None if box_xyxy is None or not np.isfinite(box_xyxy).all() else np.clip(box_xyxy, -FAR, FAR)
    left, top, right, bottom = 0, 0, width, height
    if box is not None and margin is not None:
        half = max(abs(box[2] - box[0]), abs(box[3] - box[1]), LEAST) * (0.5 + margin)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        left, top = min(int(max(0, x - half)), width - 1), min(int(max(0, y - half)), height - 1)
        right, bottom = (
            max(int(min(width, x + half + 1)), left + 1),
            max(int(min(height, y + half + 1)), top + 1),
        )
    picture = Image.fromarray(image[top:bottom, left:right])
    scale = side / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    if box is not None:
        x0, x1 = sorted(((box[0] - left) * scale, (box[2] - left) * scale))
        y0, y1 = sorted(((box[1] - top) * scale, (box[3] - top) * scale))
        ImageDraw.Draw(picture).rectangle([x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)], outline=colour, width=3)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
