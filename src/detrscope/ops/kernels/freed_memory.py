"""Memory that tensors free is kept for the next ones, rather than given back to the system.

glibc maps every tensor above some size anew, and gives free memory at the end of its heap back at once. Each layer then
waits for the system to clear pages that the layer before has just freed: on virtual machines, longer than it computes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

from detrscope.console import log

SWITCH = "DETRSCOPE_KEEP_MEMORY"  # environment variable: "0" leaves glibc as it is
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT = 2**31 - 1  # bytes of free memory at the end of the heap; the largest number that mallopt takes
MAPPED = 2**30  # bytes from which a tensor is mapped of its own, and given back when freed
OTHERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors on the CPU free; once, and for good.

    The process then holds the most it has needed, up to `KEPT` of it free.

    Returns:
        Whether it does: the C library is glibc, and neither `SWITCH` nor another setting of its allocator forbids it.
        Why it does not is a line of the log at level debug.
    """
    if sys.platform != "linux":
        return False
    settings = [name for name in OTHERS if os.environ.get(name)]
    if os.environ.get(SWITCH) == "0":
        settings.append(SWITCH)
    if settings:
        log.debug("freed memory is given back to the system, since %s is set", ", ".join(settings))
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        done = bool(library.mallopt(TRIM_THRESHOLD, KEPT) and library.mallopt(MMAP_THRESHOLD, MAPPED))
    except (OSError, AttributeError) as problem:  # another C library, such as musl
        log.debug("freed memory is given back to the system: %s", problem)
        return False
    if not done:
        log.debug("freed memory is given back to the system: glibc refused the setting")
    return done
