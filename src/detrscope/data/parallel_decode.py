"""Decode images on all cores with bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from detrscope.console import progress
from detrscope.core.cpu import usable_cores

T = TypeVar("T")


class PixelGate:
    """Bound on the pixels decoded at the same time, since one huge image may need the memory budget of all cores.

    Args:
        limit: Pixels at a time, about 1 GB with all copies on the way; a single larger image passes alone.
    """

    def __init__(self, limit: int = 64_000_000) -> None:
        self.limit = limit
        self._inside = 0
        self._changed = threading.Condition()

    @contextmanager
    def room_for(self, pixels: int) -> Iterator[None]:
        """Wait until an image of `pixels` pixels may be decoded."""
        taken = min(max(pixels, 0), self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._inside + taken <= self.limit)
            self._inside += taken
        try:
            yield
        finally:
            with self._changed:
                self._inside -= taken
                self._changed.notify_all()


def decode_all(decode: Callable[[int], T], pixels: Iterable[int], title: str) -> Iterator[T]:
    """Yield `decode(index)` of every image in order, with a progress bar.

    Threads suffice: Pillow decodes outside the interpreter's lock.

    Args:
        decode: Called with the index of an image, in threads.
        pixels: Pixels of each image.
        title: Text of the progress bar.
    """
    counts = list(pixels)
    gate = PixelGate()

    def admitted(index: int) -> T:
        with gate.room_for(counts[index]):
            return decode(index)

    with ThreadPoolExecutor(usable_cores()) as pool, progress() as bar:
        task = bar.add_task(title, total=len(counts))
        for result in pool.map(admitted, range(len(counts))):
            bar.advance(task)
            yield result
