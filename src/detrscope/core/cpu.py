"""How many cores this process may use: what the machine has, less what the system keeps it from."""

from __future__ import annotations

import os
from functools import cache
from math import ceil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@cache
def usable_cores() -> int:
    """The cores that this process may run on, by its affinity and by the quota of its container; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(CGROUP)
    return max(1, cores if quota is None else min(cores, ceil(quota)))


def cpu_quota(root: Path) -> float | None:
    """The cores' worth of time that a container may use, from cgroup version 2 or 1; None where there is no limit."""
    for quota_file, period_file in (
        (root / "cpu.max", None),
        (root / "cpu" / "cpu.cfs_quota_us", root / "cpu" / "cpu.cfs_period_us"),
    ):
        try:
            words = quota_file.read_text(encoding="ascii").split()
            if period_file is not None:
                words += period_file.read_text(encoding="ascii").split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # "max" is no number: no limit
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def load() -> float | None:
    """How many processes have wanted a core over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
