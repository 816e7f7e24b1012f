"""Read cameras and streams: time limits, reconnection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction

from detrscope.console import log
from detrscope.core.errors import UserError, WorkFailed
from detrscope.inference.media.address import StreamAddress
from detrscope.inference.media.video import Connection, ConnectionLost, Video, VideoFrame

LONGEST_PAUSE = 5.0  # seconds before a connection is tried again
FIRST_PAUSE = 0.25
STEADY = 60.0  # seconds after which a connection is taken for a good one, and failures are counted anew


class Stream:
    """A camera or stream that is open for reading; a context manager.

    A stream that stalls or breaks off, or one in real time that closes, is opened again; its frames and times
    continue.

    Args:
        address: what to open.
        timeout: seconds without data before a connection is given up.
        reconnects: most connections in a row that may fail or break off.
        pause: waits between two attempts.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(
        self,
        address: StreamAddress,
        timeout: float,
        reconnects: int,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address, self._reconnects, self._pause = address, reconnects, pause
        self._connection = Connection(address.name, timeout, address.format, address.options)
        self._video = self._open()
        self._count = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._video.__exit__()

    @property
    def length(self) -> None:
        """Number of frames, which no stream tells."""
        return None

    @property
    def rate(self) -> Fraction:
        """Frames per second on average."""
        return self._video.rate

    def frames(self) -> Iterator[VideoFrame]:
        """Yield every frame that can be decoded, in order, until the stream ends.

        Numbers and times run on over a reconnection; the time without frames counts.

        Raises:
            UserError: the first connection gives no frame.
            WorkFailed: the stream was lost, and none of the reconnections held.
        """
        offset, end, failures = Fraction(0), Fraction(0), 0
        seen = time.monotonic()  # when the last frame came
        while True:
            opened, first = time.monotonic(), self._count
            try:
                for frame in self._video.frames():
                    index, end, seen = first + frame.index, offset + frame.time, time.monotonic()
                    self._count = index + 1
                    yield VideoFrame(index, end, frame.image)
                if not self._address.real_time or self._video.has_duration:
                    return
                reason = "closed by its sender"
            except ConnectionLost as error:
                reason = str(error)
            except UserError as error:
                if not self._count:
                    raise
                reason = str(error)
            if not self._count:
                raise UserError(f"{self._address.name}: no frame of it came ({reason})")
            if losses := self._video.losses():
                log.warning("%s", losses)
            failures = 0 if time.monotonic() - opened > STEADY else failures
            failures = self._reconnect(failures, reason)
            offset = end + max(1 / self.rate, Fraction(time.monotonic() - seen).limit_denominator(1000))

    def losses(self) -> str:
        """Return what was skipped since the last reconnection, in words; empty if nothing."""
        return self._video.losses()

    def _reconnect(self, failures: int, reason: str) -> int:
        """Open the stream again, and return the number of failures so far."""
        self._video.__exit__()
        while failures < self._reconnects:
            failures += 1
            log.warning(
                "%s: lost after %d frames (%s); connecting again, %d of %d",
                self._address.name,
                self._count,
                reason,
                failures,
                self._reconnects,
            )
            self._pause(min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE))
            try:
                self._video = self._open()
                return failures
            except UserError as error:
                reason = str(error)
        again = f", {self._reconnects} reconnections in a row failed" if self._reconnects else ""
        raise WorkFailed(f"{self._address.name}: lost after {self._count} frames ({reason}){again}")

    def _open(self) -> Video:
        return Video(self._address.target, self._connection)
