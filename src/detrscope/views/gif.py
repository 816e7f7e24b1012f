"""Write frames as an animated GIF, which plays where films do not, such as in a README."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from detrscope.core.files import atomic_write
from detrscope.views.canvas import BLACK, PALETTE, WHITE

MAX_WIDTH = 800  # pixels; wider frames are scaled down
COLOURS = 256  # as many as a GIF can have
SAMPLES = 8  # frames that the colours are chosen from


@contextmanager
def write_gif(
    path: str | Path, rate: float, *, max_width: int = MAX_WIDTH
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a GIF that loops, atomically.

    All frames share one palette, so that nothing flickers and what stands still costs nothing.

    Args:
        path: path of the file.
        rate: frames per second; GIFs count hundredths of a second.
        max_width: largest width in pixels.

    Yields:
        A function that adds a frame, uint8 [H, W, 3].
    """
    frames: list[Image.Image] = []

    def add(pixels: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        scale = min(1.0, max_width / width)
        image = Image.fromarray(pixels)
        frames.append(image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS))

    with atomic_write(path) as temporary:
        yield add
        if not frames:
            return
        palette = _palette_of(frames[:: max(1, len(frames) // SAMPLES)] + frames[-1:])
        flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        duration = max(2, round(100 / rate)) * 10  # milliseconds a frame
        options = {"save_all": True, "append_images": flat[1:], "duration": duration, "loop": 0}
        flat[0].save(temporary, format="GIF", optimize=True, **options)


def _palette_of(frames: list[Image.Image]) -> Image.Image:
    """Return a palette: the colours of lines and letters, pure and half mixed with white, then the most frequent.

    Without the first, thin lines would lose the colours that tell them apart, since they cover few pixels.
    """
    pale = [tuple((channel + 255) // 2 for channel in colour) for colour in PALETTE]
    fixed = [channel for colour in (BLACK, WHITE, *PALETTE, *pale) for channel in colour]
    sheet = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    frequent = sheet.quantize(
        COLOURS - len(fixed) // 3, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette((fixed + (frequent.getpalette() or []))[: 3 * COLOURS])
    return palette
