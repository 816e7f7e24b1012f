"""Decoded images in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.data.parallel_decode import decode_all


@dataclass(frozen=True)
class PixelCache:
    """Every image of a dataset, uint8, in one block of memory, so that forked workers share it."""

    pixels: Tensor  # [bytes] uint8
    starts: np.ndarray  # [images + 1]
    sizes: np.ndarray  # [images, 2] height, width

    @classmethod
    def filled(cls, name: str, sizes: np.ndarray, read: Callable[[int], Tensor]) -> PixelCache:
        """Decode every image once, on all cores, after logging the memory it takes.

        Raises:
            UserError: there is not enough memory, or an image cannot be read.
        """
        for index in np.flatnonzero(sizes.prod(axis=1) == 0):
            read(int(index))  # an image of unknown size cannot be read: raise before memory is taken
        starts = np.concatenate([[0], np.cumsum(3 * sizes.prod(axis=1))]).astype(np.int64)
        needed, free = int(starts[-1]), free_memory_for_pixels()
        log.info("%s: caching %d images takes %s of memory", name, len(sizes), format_bytes(needed))
        if free is not None and needed > 0.9 * free:
            raise UserError(
                f"{name}: caching {len(sizes)} images needs {format_bytes(needed)} of memory but only "
                f"{format_bytes(free)} is free; switch the cache off"
            )
        cache = cls(torch.empty(needed, dtype=torch.uint8), starts, sizes)
        for _ in decode_all(
            lambda index: cache[index].copy_(read(index)), sizes.prod(axis=1).tolist(), f"caching {name}"
        ):
            pass
        return cache

    def __getitem__(self, index: int) -> Tensor:
        """Return the image, uint8 [3, H, W]: a view, so writing to it changes the cache."""
        height, width = self.sizes[index].tolist()
        block = self.pixels[self.starts[index] : self.starts[index + 1]]
        return block.view(height, width, 3).permute(2, 0, 1)


def free_memory_for_pixels() -> int | None:
    """Return the bytes that can be taken without swapping; None where the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            table = dict(line.split(":", 1) for line in lines)
        return int(table["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def format_bytes(count: int) -> str:
    """Return a number of bytes with its unit, such as 1.4 GB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
