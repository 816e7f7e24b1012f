"""CPU cores that this process may use, and the load of the machine."""

from __future__ import annotations

import os
from functools import cache
from math import ceil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@cache
def usable_cores() -> int:
    """Return the number of cores by affinity and by the quota of the container; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(CGROUP)
    return max(1, cores if quota is None else min(cores, ceil(quota)))


def cpu_quota(root: Path) -> float | None:
    """Return the CPU quota of a container in cores, from cgroup version 2 or 1; None where there is no limit."""
    for quota_file, period_file in (
        (root / "cpu.max", None),
        (root / "cpu" / "cpu.cfs_quota_us", root / "cpu" / "cpu.cfs_period_us"),
    ):
        try:
            words = quota_file.read_text(encoding="ascii").split()
            if period_file is not None:
                words += period_file.read_text(encoding="ascii").split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max": no limit
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def cpu_load_average() -> float | None:
    """Return the load average over the last minute; None where the system does not give it."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
