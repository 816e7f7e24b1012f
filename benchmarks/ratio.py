"""Two or more sides timed turn by turn in one run: machines drift, ratios of one run do not."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from detrscope.ops.kernels.native_precision import DTYPES, is_native_precision


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
    for _ in range(warm_up):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    reference = next(iter(seconds.values()))
    table = Table("side", "min s", "median s", "max s", "ratio", "ratio min-max", title=title)
    ratios = {}
    for name, times in seconds.items():
        each = [t / r for t, r in zip(times, reference, strict=True)]
        ratios[name] = median(each)
        table.add_row(
            name,
            *(f"{f(times):.4g}" for f in (min, median, max)),
            f"{median(each):.3f}",
            f"{min(each):.3f}-{max(each):.3f}",
        )
    Console(width=120).print(table)
    return ratios


def machine() -> str:
    """One line on what ran this: instruction sets as torch and oneDNN use them, and which precisions are native."""
    chip = platform.processor() or platform.machine()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "all there is")
    native = ", ".join(name for name, dtype in DTYPES.items() if is_native_precision(dtype))
    return (
        f"{os.cpu_count()} cores {chip}, {torch.get_num_threads()} threads, torch {torch.__version__}, torch's kernels"
        f" {torch.backends.cpu.get_cpu_capability()}, oneDNN {limit}, native: {native}"
    )
