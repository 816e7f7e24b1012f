"""Run a C function on several threads: torch's own where possible.

Another pool of threads would compete for the cores with torch's, which keep spinning for a while after each operation.
GCC's OpenMP, which torch uses on Linux, has one entry point that runs a function on all of them.
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
from detrscope.core.cpu import cpu_load_average, usable_cores

ONE_POINTER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def use_kernel_threads(requested: int | None = None) -> int:
    """Set the number of torch's threads: `requested`, else at most the cores that this process may use.

    `OMP_NUM_THREADS` and `torch.set_num_threads` are respected: without `requested`, threads only become fewer.

    Args:
        requested: number of threads; None for the default.

    Returns:
        The number of threads.
    """
    now, cores = torch.get_num_threads(), usable_cores()
    wanted = requested or min(now, cores)
    if wanted != now:
        torch.set_num_threads(wanted)
        why = "as requested" if requested else f"this process may use {cores} cores"
        log.info("computing on %d threads in place of %d: %s", wanted, now, why)
    busy = cpu_load_average()
    if not requested and wanted > 1 and busy is not None and busy > 1.5 * cores:
        log.warning(
            "other programs keep this machine busy (load %.1f on %d cores): steps may take several times as long;"
            " fewer threads may be faster (train.threads=1, or OMP_NUM_THREADS=1)",
            busy,
            cores,
        )
    return wanted


def run_on_threads(function: Any, job: int, threads: int) -> None:
    """Call `function(job)` once on each of several threads and wait for all of them.

    Args:
        function: a C function of one pointer, made by `c_function`. It must not touch Python.
        job: its argument, an address; the calls divide the work among themselves.
        threads: number of threads, including the caller's.
    """
    launch = openmp_launcher() if threads > 1 else None
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
    """Return the C function at an address, to be called with the address of a job; it releases the GIL."""
    return ONE_POINTER(address)


@cache
def openmp_launcher() -> Any | None:
    """Return `GOMP_parallel` of torch's own OpenMP; None where torch uses another."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        launch = library.GOMP_parallel  # resolved through the library's own dependencies
    except (OSError, AttributeError) as problem:
        log.info("torch's own threads are not available, using Python's: %s", problem)
        return None
    launch.argtypes = [ONE_POINTER, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    launch.restype = None
    return launch
