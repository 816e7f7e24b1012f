"""What a run costs: seconds of each step and what that means for the whole, and the most memory."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from statistics import fmean

import torch

from detrscope.console import log

COLD = 3  # first steps of a process, not counted: kernels are compiled and memory is taken
MEASURED = 5  # steps after those before an estimate is given
RECENT = 200  # steps that the estimate rests on: a machine's load changes
FORWARD = 0.4  # a forward pass of an evaluation relative to a training step; only until one was measured


class Clock:
    """Measures steps, loading of images included, and what a run does besides, and tells the time left.

    Args:
        steps_per_epoch: optimiser steps of one epoch.
        total_steps: optimiser steps of the run.
        due: for each kind of other work, how often it is still to be done after so many steps.
        guesses: how many training steps one piece of other work takes, until it was measured.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        total_steps: int,
        due: Mapping[str, Callable[[int], int]] | None = None,
        guesses: Mapping[str, float] | None = None,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps
        self.due = due or {}
        self.guesses = guesses or {}
        self._last = time.perf_counter()
        self._done = 0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._other: dict[str, list[float]] = {}

    def start(self) -> None:
        """Forget what happened since the last step."""
        self._last = time.perf_counter()

    def step(self) -> float:
        """Seconds since the last step or start."""
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
        """From `step` steps to the end of the run, all its work included; None before it is known."""
        each = self.seconds_per_step
        if each is None:
            return None
        left = each * (self.total_steps - step)
        for kind, times in self.due.items():
            known = self._other.get(kind)
            left += times(step) * (fmean(known[-5:]) if known else each * self.guesses.get(kind, 0.0))
        return left

    def left(self, step: int) -> str:
        """`seconds_left` in words; `?` before it is known."""
        seconds = self.seconds_left(step)
        return "?" if seconds is None else in_words(seconds)

    def log_estimate(self, step: int) -> None:
        """Say once, as soon as it is known, how long an epoch and the rest of the run will take."""
        each = self.seconds_per_step
        if self._done == COLD + MEASURED and each is not None:
            log.info(
                "%.3g s a step, %s an epoch of %d steps, about %s left in all",
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
