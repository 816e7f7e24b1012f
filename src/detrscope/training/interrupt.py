"""Stop on Ctrl-C between two steps, not in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from detrscope.console import log

Handler = Callable[[int, FrameType | None], Any] | int | None


class Interruption:
    """Context in which the first Ctrl-C (or SIGTERM) only sets `requested`, and the second one stops at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
            self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # in a worker of the loader, which Ctrl-C reaches too: it is needed until the step is done
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.info("stopping after this step; press Ctrl-C again to stop immediately, without a checkpoint")
