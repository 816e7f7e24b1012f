"""How much is decoded at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


class PixelGate:
    """Bounds how many pixels are decoded at the same time: one huge image takes the memory of all the cores' share."""

    def __init__(self, most: int = 64_000_000) -> None:
        """Open a gate.

        Args:
            most: pixels at a time, about 1 GB with all copies on the way; a single larger image passes alone.
        """
        self.most = most
        self._inside = 0
        self._changed = threading.Condition()

    @contextmanager
    def room_for(self, pixels: int) -> Iterator[None]:
        """Wait until an image of so many pixels may be decoded."""
        taken = min(max(pixels, 0), self.most)
        with self._changed:
            self._changed.wait_for(lambda: self._inside + taken <= self.most)
            self._inside += taken
        try:
            yield
        finally:
            with self._changed:
                self._inside -= taken
                self._changed.notify_all()
