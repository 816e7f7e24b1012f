"""Small videos, whole and damaged."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from detrscope.views.mp4 import write_mp4


def write_clip(path: Path, rate: Fraction | int = 12) -> Path:
    """Eight frames of 80 x 64 in which a blue square moves to the right by 4 pixels a frame."""
    with write_mp4(path, rate, quality=5) as add:
        for i in range(8):
            frame = np.zeros((64, 80, 3), dtype=np.uint8)
            frame[16:40, 8 + 4 * i : 32 + 4 * i] = (0, 0, 255)
            add(frame)
    return path


def damaged_clip(path: Path, ending: str, packets: set[int]) -> Path:
    """A clip of 30 frames, each a key frame, in which some packets are overwritten behind their length."""
    target = path.with_suffix(ending)
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        pixels = np.zeros((30, 64, 80, 3), dtype=np.uint8)
        for i, one in enumerate(pixels):
            one[16:40, 8 + i : 32 + i] = (0, 0, 255)
        for frame in [*(av.VideoFrame.from_ndarray(one, format="rgb24") for one in pixels), None]:
            container.mux(stream.encode(frame))
    data = target.read_bytes()
    with av.open(str(target)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number in packets:
                good = bytes(packet)
                assert data.count(good) == 1
                data = data.replace(good, good[:4] + b"\xff" * (len(good) - 4))  # the length stays
    target.write_bytes(data)
    return target
