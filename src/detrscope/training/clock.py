"""What a run costs: seconds of each step and what that means for the whole, and the most memory."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

import torch

from detrscope.console import log

MEASURED = 5  # steps that the estimate rests on; the one before them, which is slow, is not counted


class Clock:
    """Measures steps, loading of images included.

    Args:
        steps_per_epoch: optimiser steps of one epoch.
        total_steps: optimiser steps of the run.
    """

    def __init__(self, steps_per_epoch: int, total_steps: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps
        self._last = time.perf_counter()
        self._done = 0
        self._seconds = 0.0

    def start(self) -> None:
        """Forget what happened since the last step, such as an evaluation."""
        self._last = time.perf_counter()

    def step(self) -> float:
        """Seconds since the last step or start."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._done += 1
        if self._done > 1:
            self._seconds += seconds
        return seconds

    @property
    def seconds_per_step(self) -> float | None:
        """Mean of the steps but the first; None before there are two."""
        return self._seconds / (self._done - 1) if self._done > 1 else None

    def left(self, step: int) -> str:
        """The time from `step` steps to the end of the run, without evaluation; `?` before it is known."""
        each = self.seconds_per_step
        return "?" if each is None else in_words(each * (self.total_steps - step))

    def log_estimate(self, step: int) -> None:
        """Say once, after the first steps, how long an epoch and the rest of the run will take."""
        each = self.seconds_per_step
        if self._done == 1 + MEASURED and each is not None:
            log.info(
                "%.3g s a step, %s an epoch of %d steps, %s left in all, evaluation not counted",
                each,
                in_words(each * self.steps_per_epoch),
                self.steps_per_epoch,
                self.left(step),
            )


def in_words(seconds: float) -> str:
    """Such as 0:01:30 or 2 days, 3:00:00."""
    return str(timedelta(seconds=round(seconds)))


def peak_memory_mb(device: torch.device) -> int | None:
    """The most memory so far: of the GPU where there is one, else of this process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20
