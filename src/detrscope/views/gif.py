"""Pictures one after the other as an animated GIF, which plays where films do not, such as in a README."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from detrscope.core.files import atomic_write
from detrscope.views.canvas import BLACK, PALETTE, WHITE

WIDEST = 800  # pixels; frames that are wider are scaled down
COLOURS = 256  # as many as a GIF can have
SAMPLES = 8  # frames that the colours are chosen from


@contextmanager
def gif(path: str | Path, rate: float, *, widest: int = WIDEST) -> Iterator[Callable[[np.ndarray], None]]:
    """A GIF that loops, written whole or not at all.

    All frames share one set of colours, so that nothing flickers and what stands still costs nothing.

    Args:
        path: the file.
        rate: frames per second; GIFs count hundredths of a second.
        widest: pixels across at most.

    Yields:
        A function that adds a frame, uint8 [H, W, 3].
    """
    frames: list[Image.Image] = []

    def add(pixels: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        scale = min(1.0, widest / width)
        image = Image.fromarray(pixels)
        frames.append(image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS))

    with atomic_write(path) as temporary:
        yield add
        if not frames:
            return
        palette = _colours_of(frames[:: max(1, len(frames) // SAMPLES)] + frames[-1:])
        flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        each = max(2, round(100 / rate)) * 10  # milliseconds
        flat[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=flat[1:],
            duration=each,
            loop=0,
            optimize=True,
        )


def _colours_of(frames: list[Image.Image]) -> Image.Image:
    """One palette for all frames: the colours of lines and letters, pure and half mixed with white, then the frequent.

    Without the first, thin lines would lose the colours that tell them apart, since they cover few pixels.
    """
    own = [
        *PALETTE,
        *(((red + 255) // 2, (green + 255) // 2, (blue + 255) // 2) for red, green, blue in PALETTE),
    ]
    fixed = [value for colour in (BLACK, WHITE, *own) for value in colour]
    sheet = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    often = sheet.quantize(
        COLOURS - len(fixed) // 3, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette((fixed + (often.getpalette() or []))[: 3 * COLOURS])
    return palette
