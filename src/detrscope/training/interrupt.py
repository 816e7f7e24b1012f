"""Stop on Ctrl-C, or before a cluster takes the machine away, between two steps, not in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from detrscope.console import log

Handler = Callable[[int, FrameType | None], Any] | int | None

STOP = (signal.SIGINT, signal.SIGTERM)
# What a cluster sends some time before it ends a job; Windows has neither.
NOTICE = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Preempted(KeyboardInterrupt):
    """Training has stopped, with a checkpoint, since the cluster is about to end the job."""


class Interruption:
    """Context in which Ctrl-C, SIGTERM and the notices of a cluster end training, with the last checkpoint.

    Inside `deferred` the first of them only sets `requested`; a second Ctrl-C or SIGTERM stops at once. Elsewhere, in
    an evaluation say, the last checkpoint has all that was trained, and they stop at once.

    Attributes:
        requested: whether a signal has come.
        stops: whether a person, or the system, wants the end, not only the cluster its machine.
    """

    def __init__(self) -> None:
        self.requested = False
        self.stops = False
        self._defers = False
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
            self._previous = {number: signal.signal(number, self._handle) for number in (*STOP, *NOTICE)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[Interruption]:
        """Let what is done in the `with` come to its end first."""
        self._defers = True
        try:
            yield self
        finally:
            self._defers = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # in a worker of the loader, which Ctrl-C reaches too: it is needed until the step is done
        if not self._defers:
            raise KeyboardInterrupt if number in STOP else Preempted
        if self.stops and number in STOP:
            raise KeyboardInterrupt
        again = self.requested
        self.requested = True
        self.stops = self.stops or number in STOP
        if again:
            return
        if number in STOP:
            log.info("stopping after this step; press Ctrl-C again to stop immediately, without a checkpoint")
        else:
            log.info("%s: saving after this step, and stopping", signal.Signals(number).name)
