"""Images that look alike: the same picture resized, compressed again or slightly changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

SIDE = 16  # bits of a fingerprint along a side
BITS = SIDE * SIDE
NEAR = 12  # bits that may differ: fewer than there are bands, so that two alike share one band whole
BAND = 16  # bits
FLAT = 2.0  # grey levels: an image whose small copy varies less has no fingerprint


def fingerprint(pixels: np.ndarray) -> int | None:
    """Return the difference hash of an image: of each cell of a small grey copy, whether the next one is brighter.

    It hardly changes when the image is resized or compressed. None for an image of nearly one colour.

    Args:
        pixels: uint8 [H, W, 3].
    """
    small = np.asarray(
        Image.fromarray(pixels).convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16
    )
    if small.std() < FLAT:
        return None
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def similar_pairs(fingerprints: Sequence[int | None]) -> Iterable[tuple[int, int, int]]:
    """Yield pairs of images whose fingerprints differ in few bits, as first, second and the number of bits.

    Two that differ in at most `NEAR` bits agree in one of the 16 bands at least, so that only images that share a band
    are compared.
    """
    bands: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, value in enumerate(fingerprints):
        if value is None:
            continue
        near: set[int] = set()
        for band in range(BITS // BAND):
            key = (band, value >> (band * BAND) & (2**BAND - 1))
            near.update(bands[key])
            bands[key].append(index)
        for other in sorted(near):
            earlier = fingerprints[other]
            assert earlier is not None
            bits = (value ^ earlier).bit_count()
            if bits <= NEAR:
                yield other, index, bits
