"""Write frames as an mp4 film."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from detrscope.core.files import atomic_write
from detrscope.views.canvas import resize_drawing

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"]


class AddFrame(Protocol):
    """Function that adds one frame to a film."""

    def __call__(self, pixels: np.ndarray, at: Fraction | None = None) -> None:
        """Add `pixels`, uint8 [H, W, 3], at a time in seconds, or one step of the rate after the last."""


@contextmanager
def write_mp4(
    path: str | Path,
    rate: Fraction | float,
    *,
    quality: int = 20,
    preset: Preset = "medium",
    fragmented: bool = False,
) -> Iterator[AddFrame]:
    """Write an mp4 (H.264) atomically.

    Frames have the size of the first one, others are fitted into it with black beside them; an odd width or height is
    made even by repeating the last column or row, as H.264 asks for.

    Args:
        path: path of the file.
        rate: frames per second.
        quality: H.264's constant rate factor, 0 (lossless) to 51.
        preset: how long the encoder searches for a smaller file.
        fragmented: write the index in parts, as it goes: its length then takes no memory. Some old players need one
            index for the whole film.

    Yields:
        A function that adds a frame.
    """
    rate = Fraction(rate).limit_denominator(100_000)
    clock = rate.numerator * max(1, round(90_000 / rate.numerator))  # ticks a second, a whole number a frame
    step = int(clock / rate)
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if fragmented else {}
    with (
        atomic_write(path) as temporary,
        av.open(str(temporary), "w", format="mp4", container_options=flags) as container,
    ):
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(quality), "preset": preset})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, clock)
        converter = VideoReformatter()  # one for all frames: making it takes longer than its work
        last: int | None = None  # tick of the last frame

        def add(pixels: np.ndarray, at: Fraction | None = None) -> None:
            nonlocal last
            height, width = pixels.shape[:2]
            even = pixels
            if height % 2 or width % 2:
                even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if last is None:
                stream.height, stream.width = even.shape[:2]
            if even.shape[:2] != (stream.height, stream.width):  # some cameras and calls change it on the way
                even = _letterboxed(even, stream.height, stream.width)
            earliest = 0 if last is None else last + 1  # time runs forward, even where a camera's does not
            wanted = round(at * clock) if at is not None else 0 if last is None else last + step
            last = max(wanted, earliest)
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame = converter.reformat(rgb, format="yuv420p")
            frame.pts, frame.time_base = last, Fraction(1, clock)
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode(None))


def _letterboxed(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a frame scaled to fit another size, in the middle of black: uint8 [height, width, 3]."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    rows, columns = max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    whole = np.zeros((height, width, 3), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    whole[top : top + rows, left : left + columns] = resize_drawing(pixels, columns, rows)
    return whole
