"""Read videos frame by frame, past damaged frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from detrscope.core.errors import UserError

if TYPE_CHECKING:
    import av

LISTED = 8  # most runs of damaged frames in a message
MAX_FAILURES = 100  # consecutive read errors before a video is given up
SLACK = 0.02  # error in a file's own length that is tolerated, relative


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video."""

    index: int
    time: Fraction  # seconds since the first frame
    image: Tensor  # [3, H, W] uint8, upright


class Video:
    """A video file that is open for reading; a context manager.

    Args:
        path: file to read.

    Raises:
        UserError: it cannot be read as a video.
    """

    def __init__(self, path: str | Path) -> None:
        import av

        self.path = str(path)
        try:
            self._container = av.open(self.path)
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{path}: cannot be read as a video ({error.strerror})") from None
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{path}: has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "SLICE"  # frame threads would lose good frames beside a damaged one
        self.damaged: list[int] = []  # indices of damaged frames, -1 where not known
        self.flawed: list[int] = []  # indices of frames that were decoded with flaws
        self._count = 0
        self._end = Fraction(0)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def rate(self) -> Fraction:
        """Frames per second on average."""
        return Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)

    @property
    def length(self) -> int | None:
        """Number of frames by the file's header, where it has one."""
        return self._stream.frames or None

    def frames(self) -> Iterator[VideoFrame]:
        """Yield every frame that can be decoded, in order; `losses` reports the others afterwards.

        Damaged frames are skipped; the next ones keep their numbers and times.

        Raises:
            UserError: no frame can be decoded.
        """
        self.damaged, self.flawed, self._count, self._end = [], [], 0, Fraction(0)
        start, lost = Fraction(0), []  # lost: times of damaged packets, where they have one
        for packet in self._packets():
            frames, is_damaged = _decode(packet)
            if is_damaged:
                lost.append(_seconds(packet))
            for frame in frames:
                time = _seconds(frame)
                if time is None:
                    time = (self._count + len(lost)) / self.rate
                start = time if self._count == 0 else start
                index = self._count + sum(other is None or other < time for other in lost)
                if frame.is_corrupt:
                    self.flawed.append(index)
                yield VideoFrame(index, time - start, upright_video_frame(frame))
                self._count += 1
                self._end = time - start + 1 / self.rate
        if self._count == 0:
            reason = " (all are damaged)" if lost else ""
            raise UserError(f"{self.path}: no frame of it can be decoded{reason}")
        times = sorted(time for time in lost if time is not None)
        self.damaged = [max(0, round((time - start) * self.rate)) for time in times]
        self.damaged += [-1] * (len(lost) - len(times))

    def losses(self) -> str:
        """Return what the last pass over `frames` had to skip, in words; empty if nothing."""
        losses = []
        if self.damaged:
            losses.append(f"{_counted(len(self.damaged), 'damaged frame')} skipped{_listed(self.damaged)}")
        if self.flawed:
            losses.append(f"{_counted(len(self.flawed), 'frame')} decoded with flaws{_listed(self.flawed)}")
        length = self._duration()
        missing = round((length - self._end) * self.rate) if length is not None else 0
        if length is not None and missing > max(1.0, float(length * self.rate) * SLACK):
            losses.append(
                f"its frames end at {float(self._end):.2f} s of {float(length):.2f} s: "
                f"about {_counted(missing, 'frame')} cut off or damaged beyond reading"
            )
        return f"{self.path}: {self._count} frames read; {'; '.join(losses)}" if losses else ""

    def _packets(self) -> Iterator[av.Packet[Any]]:
        """Yield the packets of the video stream, continuing after read errors."""
        import av

        failures = 0
        while failures < MAX_FAILURES:
            try:
                for packet in self._container.demux(self._stream):
                    yield packet
                    failures = 0
                return
            except av.FFmpegError:
                failures += 1

    def _duration(self) -> Fraction | None:
        """Return the seconds that the file declares for its video; None where it does not."""
        stream = self._stream
        if stream.duration and stream.time_base:
            return Fraction(stream.duration * stream.time_base)
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska
        if tag:
            hours, minutes, seconds = tag.groups()
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        alone = len(self._container.streams) == 1  # else the sound may be longer
        return Fraction(self._container.duration, 1_000_000) if alone and self._container.duration else None


def _decode(packet: av.Packet[Any]) -> tuple[list[av.VideoFrame], bool]:
    """Return the frames that a packet completes, and whether it is damaged."""
    import av

    try:
        return [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)], False
    except av.FFmpegError:
        return [], True


def _seconds(part: av.Packet[Any] | av.VideoFrame) -> Fraction | None:
    """Return the presentation time of a packet or frame in seconds, where it has one."""
    return None if part.pts is None or part.time_base is None else Fraction(part.pts * part.time_base)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(numbers: list[int]) -> str:
    """Return such as ` (number 20 to 22, 31)`; empty where the numbers are not known."""
    spans: list[list[int]] = []
    for number in sorted({n for n in numbers if n >= 0}):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    parts = [f"{first}" if first == last else f"{first} to {last}" for first, last in spans]
    listed = parts[:LISTED] + (["..."] if len(parts) > LISTED else [])
    return f" (number {', '.join(listed)})" if parts else ""


def upright_video_frame(frame: av.VideoFrame) -> Tensor:
    """Return the pixels, uint8 [3, H, W], rotated as the camera recorded."""
    pixels = frame.to_ndarray(format="rgb24")  # [H, W, 3]
    rotated = np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90)))
    return torch.from_numpy(rotated).permute(2, 0, 1)  # [3, H, W]
