"""Pictures one after the other as an animated GIF, which plays where films do not, such as in a README."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from detrscope.core.files import written_whole

WIDEST = 800  # pixels; frames that are wider are scaled down
COLOURS = 128
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

    with written_whole(path) as temporary:
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
    """One palette for all frames."""
    sheet = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    return sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
