"""A C function of one job run by several threads at once, on the threads that torch has where that can be.

Threads of a library of our own would fight for the cores with torch's, which go on spinning for a while after each of
its operations. GCC's OpenMP, which torch brings along on Linux, has one entry to run a function on all of them.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from detrscope.console import log
from detrscope.core.cpu import load_average, usable_cores

ONE_POINTER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def use_threads(asked: int | None = None) -> int:
    """Let torch compute on some threads: those asked for, else no more than there are cores for this process.

    `OMP_NUM_THREADS` and `torch.set_num_threads` are heard: without `asked`, threads only ever become fewer.

    Args:
        asked: how many; None for as many as suit.

    Returns:
        How many there are now.
    """
    now, cores = torch.get_num_threads(), usable_cores()
    wanted = asked or min(now, cores)
    if wanted != now:
        torch.set_num_threads(wanted)
        why = "as asked" if asked else f"this process may use {cores} cores"
        log.info("computing on %d threads in place of %d: %s", wanted, now, why)
    busy = load_average()
    if not asked and wanted > 1 and busy is not None and busy > 1.5 * cores:
        log.warning(
            "other programs keep this machine busy (load %.1f on %d cores): steps may take several times as long;"
            " fewer threads may be faster (train.threads=1, or OMP_NUM_THREADS=1)",
            busy,
            cores,
        )
    return wanted


def run_on_threads(function: Any, job: int, threads: int) -> None:
    """Call `function(job)` once on each of some threads and wait for all of them.

    Args:
        function: a C function of one pointer, made by `c_function`. It must not touch Python.
        job: the address it is called with; the calls share out the work among themselves.
        threads: how many, the caller's own among them.
    """
    launch = team() if threads > 1 else None
    if threads == 1:
        function(job)
    elif launch is not None:
        launch(function, job, threads, 0)
    else:
        others = [Thread(target=function, args=(job,)) for _ in range(threads - 1)]
        for thread in others:
            thread.start()
        function(job)
        for thread in others:
            thread.join()


def c_function(address: int) -> Any:
    """The function at an address, callable with the address of a job; others may run in Python meanwhile."""
    return ONE_POINTER(address)


@cache
def team() -> Any | None:
    """`GOMP_parallel` of the OpenMP that torch itself runs on; None where torch runs on another."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        launch = library.GOMP_parallel  # found in what the library was linked to
    except (OSError, AttributeError) as problem:
        log.info("torch's own threads are out of reach, Python's take their place: %s", problem)
        return None
    launch.argtypes = [ONE_POINTER, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    launch.restype = None
    return launch
