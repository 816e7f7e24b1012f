"""Time several sides turn by turn in one process: machines drift, ratios of one run do not."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from detrscope.ops.kernels.native_precision import DTYPES, is_native_precision

Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class Ratio:
    """Time of one side in that of the reference: over the rounds, of the ratio within a round."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
        """Return the ratio of two sides that were timed in the same rounds."""
        each = [one / other for one, other in zip(seconds, reference, strict=True)]
        return cls(median(each), min(each), max(each))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.min:.3f}-{self.max:.3f})"


def time_in_turns(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    clock: Clock = time.perf_counter,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Run every side once a round.

    Args:
        sides: name -> what to run.
        rounds: how many times.
        warm_up: untimed rounds first.
        clock: seconds; `time.process_time`, the work of all threads, where others use the machine too.
        after_round: called after each timed round.

    Returns:
        Seconds of each round, by side.
    """
    for _ in range(warm_up):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
        after_round()
    return seconds


def percentile_95(seconds: Sequence[float]) -> float:
    """Return the 95th percentile, interpolated between the two nearest times."""
    return float(np.percentile(seconds, 95))


def describe_machine() -> str:
    """Return a line on what computes: instruction sets as torch and oneDNN use them, and native precisions."""
    chip = platform.processor() or platform.machine()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "all there is")
    native = ", ".join(name for name, dtype in DTYPES.items() if is_native_precision(dtype))
    gpu = f", GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores {chip}, {torch.get_num_threads()} threads, torch {torch.__version__}, torch's kernels"
        f" {torch.backends.cpu.get_cpu_capability()}, oneDNN {limit}, native: {native}{gpu}"
    )
