"""Cost of a run: seconds of each step, an estimate of the time left, peak memory."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from statistics import fmean

import torch

from detrscope.console import log

COLD = 3  # first steps of a process, not counted: kernels are compiled and memory is allocated
MEASURED = 5  # further steps before an estimate is given
RECENT = 200  # latest steps that the estimate rests on: the load of a machine changes
FORWARD = 0.4  # a forward pass of an evaluation in training steps, until one has been measured


class Clock:
    """Measures steps, loading of images included, and the other work of a run, and estimates the time left.

    Args:
        steps_per_epoch: optimiser steps of one epoch.
        total_steps: optimiser steps of the run.
        intervals: steps between two pieces of each kind of other work, such as evaluations; the last comes at the end.
        guesses: duration of one piece of other work in training steps, until one has been measured.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        total_steps: int,
        intervals: Mapping[str, int] | None = None,
        guesses: Mapping[str, float] | None = None,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps
        self.intervals = intervals or {}
        self.guesses = guesses or {}
        self._last = time.perf_counter()
        self._done = 0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._other: dict[str, list[float]] = {}

    def start(self) -> None:
        """Start the next step's time now."""
        self._last = time.perf_counter()

    def step(self) -> float:
        """Return the seconds since the last step or start."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._done += 1
        if self._done > COLD:
            self._recent.append(seconds)
        return seconds

    @contextmanager
    def other(self, kind: str) -> Iterator[None]:
        """Measure a piece of work that is not a training step, such as an evaluation."""
        start = time.perf_counter()
        yield
        self._other.setdefault(kind, []).append(time.perf_counter() - start)
        self.start()

    @property
    def seconds_per_step(self) -> float | None:
        """Mean of the recent steps; None before enough of them were measured."""
        return fmean(self._recent) if len(self._recent) >= MEASURED else None

    def seconds_left(self, step: int) -> float | None:
        """Estimate the seconds from `step` steps to the end of the run, all its work included; None at first."""
        each = self.seconds_per_step
        if each is None:
            return None
        left = each * (self.total_steps - step)
        for kind, interval in self.intervals.items():
            times = self._other.get(kind)
            count = -(-(self.total_steps - step) // interval)
            left += count * (fmean(times[-5:]) if times else each * self.guesses.get(kind, 0.0))
        return left

    def left(self, step: int) -> str:
        """Return `seconds_left` in words; `?` before it is known."""
        seconds = self.seconds_left(step)
        return "?" if seconds is None else format_training_time(seconds)

    def log_estimate(self, step: int) -> None:
        """Log once, as soon as it is known, how long an epoch and the rest of the run will take."""
        each = self.seconds_per_step
        if self._done == COLD + MEASURED and each is not None:
            log.info(
                "%.3g s a step, %s an epoch of %d steps, about %s left in all",
                each,
                format_training_time(each * self.steps_per_epoch),
                self.steps_per_epoch,
                self.left(step),
            )


def format_training_time(seconds: float) -> str:
    """Format a duration, such as 0:01:30 or 2 days, 3:00:00."""
    return str(timedelta(seconds=round(seconds)))


def peak_memory_mb(device: torch.device) -> int | None:
    """Return the peak memory so far: of the GPU where there is one, else of this process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20
