"""Read videos frame by frame, past damaged frames."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from detrscope.core.download import is_url, shown_url
from detrscope.core.errors import UserError, WorkFailed

if TYPE_CHECKING:
    import av

LISTED = 8  # most runs of damaged frames in a message
MAX_FAILURES = 100  # consecutive read errors before a video is given up
SLACK = 0.02  # error in a file's own length that is tolerated, relative
MOST_NUMBERS = 1000  # of damaged frames that are remembered; the others are only counted
HIGHEST_RATE = 240  # frames a second; streams that declare more do not know theirs
UNKNOWN_RATE = 25
URL_TIMEOUT = 20.0  # seconds without data from a video at a URL
URL_OPTIONS = {
    "reconnect": "1",
    "reconnect_on_network_error": "1",
    "reconnect_delay_max": "4",
}  # goes on where it was
WITHOUT_CLOCK = (
    "mjpeg",
    "mpjpeg",
)  # formats whose frames have no times of their own; streams arrive in real time


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video."""

    index: int
    time: Fraction  # seconds since the first frame
    image: Tensor  # [3, H, W] uint8, upright


class ConnectionLost(Exception):
    """A stream that stalled or broke off; says how."""


@dataclass(frozen=True)
class Connection:
    """How to open a stream; see `StreamAddress`."""

    name: str  # in messages
    timeout: float  # seconds without data
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


class FrameNumbers:
    """Numbers of frames, of which the first `MOST_NUMBERS` are remembered."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[int] = []

    def add(self, number: int | None) -> None:
        """Count a frame; None where its number is not known."""
        self.count += 1
        if number is not None and len(self.first) < MOST_NUMBERS:
            self.first.append(number)


class Video:
    """A video that is open for reading; a context manager.

    Args:
        path: file or URL to read.
        connection: how to open it where it is a stream. A stream that stalls raises `ConnectionLost`.

    Raises:
        UserError: it cannot be read as a video.
    """

    def __init__(self, path: str | Path, connection: Connection | None = None) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._is_stream = connection is not None
        if connection is None and is_url(path):
            connection = Connection(shown_url(str(path)), URL_TIMEOUT, options=URL_OPTIONS)
        self.path = str(path) if connection is None else connection.name
        self._connection = connection
        try:
            if connection is None:
                self._container = av.open(str(path))
            else:
                self._container = av.open(
                    str(path),
                    format=connection.format,
                    options=dict(connection.options),
                    timeout=(connection.timeout, connection.timeout),
                )
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{self.path}: cannot be read as a video ({self._reason(error)})") from None
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{self.path}: has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "SLICE"  # frame threads would lose good frames beside a damaged one
        self._by_clock = self._is_stream and self._container.format.name in WITHOUT_CLOCK
        self.damaged = FrameNumbers()
        self.flawed = FrameNumbers()  # decoded with flaws
        self._converter = VideoReformatter()  # one for all frames: making it takes longer than its work
        self._count = 0
        self._end = Fraction(0)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def rate(self) -> Fraction:
        """Frames per second on average."""
        rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or UNKNOWN_RATE)
        return rate if not self._is_stream or rate <= HIGHEST_RATE else Fraction(UNKNOWN_RATE)

    @property
    def length(self) -> int | None:
        """Number of frames by the file's header, where it has one."""
        return self._stream.frames or None

    @property
    def has_duration(self) -> bool:
        """Whether it declares how long it is, as live streams do not."""
        return self._duration() is not None

    def frames(self) -> Iterator[VideoFrame]:
        """Yield every frame that can be decoded, in order; `losses` reports the others afterwards.

        Damaged frames are skipped; the next ones keep their numbers and times.

        Raises:
            UserError: no frame can be decoded.
            WorkFailed: a video at a URL that stalls or breaks off.
            ConnectionLost: a stream that stalls or breaks off.
        """
        self.damaged, self.flawed, self._count, self._end = FrameNumbers(), FrameNumbers(), 0, Fraction(0)
        start, before = Fraction(0), 0  # before: damaged frames before the next one
        lost: list[Fraction] = []  # times of damaged packets later than that
        for packet in self._packets():
            frames, is_damaged = _decode(packet)
            if is_damaged and (when := _seconds(packet)) is not None:
                lost.append(when)
            elif is_damaged:
                before += 1
                self.damaged.add(None)
            for frame in frames:
                when = Fraction(time.monotonic()) if self._by_clock else _seconds(frame)
                if when is None:
                    when = (self._count + before + len(lost)) / self.rate
                start = when if self._count == 0 else start
                for one in sorted(one for one in lost if one < when):
                    before += 1
                    self.damaged.add(max(0, round((one - start) * self.rate)))
                lost = [one for one in lost if one >= when]
                index = self._count + before
                if frame.is_corrupt:
                    self.flawed.add(index)
                pixels = self._converter.reformat(frame, format="rgb24").to_ndarray()
                yield VideoFrame(index, when - start, upright_pixels(pixels, frame.rotation))
                self._count += 1
                self._end = when - start + 1 / self.rate
        if self._count == 0:
            reason = " (all are damaged)" if lost or before else ""
            raise UserError(f"{self.path}: no frame of it can be decoded{reason}")
        for one in sorted(lost):
            self.damaged.add(max(0, round((one - start) * self.rate)))

    def losses(self) -> str:
        """Return what the last pass over `frames` had to skip, in words; empty if nothing."""
        losses = []
        for frames, fate in ((self.damaged, "skipped"), (self.flawed, "with flaws")):
            if frames.count:
                noun = "damaged frame" if fate == "skipped" else "frame"
                done = fate if fate == "skipped" else f"decoded {fate}"
                losses.append(f"{_counted(frames.count, noun)} {done}{_listed(frames.first)}")
        length = None if self._is_stream else self._duration()
        missing = round((length - self._end) * self.rate) if length is not None else 0
        if length is not None and missing > max(1.0, float(length * self.rate) * SLACK):
            losses.append(
                f"its frames end at {float(self._end):.2f} s of {float(length):.2f} s: "
                f"about {_counted(missing, 'frame')} cut off or damaged beyond reading"
            )
        return f"{self.path}: {self._count} frames read; {'; '.join(losses)}" if losses else ""

    def _packets(self) -> Iterator[av.Packet[Any]]:
        """Yield the packets of the video stream, continuing after read errors of files."""
        import av

        failures = 0
        while failures < MAX_FAILURES:
            try:
                for packet in self._container.demux(self._stream):
                    yield packet
                    failures = 0
                return
            except av.FFmpegError as error:
                failures += 1
                if self._connection is None or isinstance(error, av.error.InvalidDataError):
                    continue
                reason = self._reason(error)
            if self._is_stream:
                raise ConnectionLost(reason)
            raise WorkFailed(f"{self.path}: broke off after {_counted(self._count, 'frame')} ({reason})")

    def _reason(self, error: Exception) -> str:
        """Return what went wrong, in words; FFmpeg calls a timeout an exit."""
        import av

        if isinstance(error, av.error.ExitError) and self._connection is not None:
            return f"no data for {self._connection.timeout:g} s"
        return str(getattr(error, "strerror", None) or error)

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


def upright_pixels(pixels: np.ndarray, rotation: int) -> Tensor:
    """Return pixels [H, W, 3] rotated as the camera recorded, counter-clockwise in degrees: uint8 [3, H, W]."""
    rotated = np.ascontiguousarray(np.rot90(pixels, k=round(rotation / 90)))
    return torch.from_numpy(rotated).permute(2, 0, 1)  # [3, H, W]
