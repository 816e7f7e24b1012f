"""Two or more sides timed turn by turn in one run, printed as a table; the timing itself is the package's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from detrscope.inference.latency import Ratio, time_in_turns
from detrscope.inference.latency import describe_machine as machine
from detrscope.ops.kernels.native_precision import is_native_precision

__all__ = ["compare", "machine"]


def compare(
    title: str,
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time every side once a round and print min, median and max seconds and the ratio to the first side.

    The ratio is the median over rounds of the ratio within a round.

    Args:
        title: what is measured.
        sides: name -> what to run; the first is the reference.
        rounds: how many times.
        warm_up: untimed rounds first.
        clock: seconds; `time.process_time`, the work of all threads, where others use the machine too.

    Returns:
        The ratio of every side to the first.
    """
    if not is_native_precision(torch.bfloat16) and any("bf16" in name for name in sides):
        print("bf16 is emulated on this CPU: its sides are left out")
        sides = {name: run for name, run in sides.items() if "bf16" not in name}
    seconds = time_in_turns(sides, rounds=rounds, warm_up=warm_up, clock=clock)
    reference = next(iter(seconds.values()))
    table = Table("side", "min s", "median s", "max s", "ratio", "ratio min-max", title=title)
    ratios = {}
    for name, times in seconds.items():
        ratio = Ratio.of(times, reference)
        ratios[name] = ratio.median
        table.add_row(
            name,
            *(f"{f(times):.4g}" for f in (min, median, max)),
            f"{ratio.median:.3f}",
            f"{ratio.min:.3f}-{ratio.max:.3f}",
        )
    Console(width=120).print(table)
    return ratios
