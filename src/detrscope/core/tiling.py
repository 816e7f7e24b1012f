"""Tiles of a large image: rectangles of one size that overlap and cover it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from detrscope.core.argument_check import check_field_arguments
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import MAX_SIDE, Preprocessing

MIN_SIDE = 16  # pixels
MAX_OVERLAP = 0.9
MAX_TILES = 20_000  # of one image

Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


@check_field_arguments
@dataclass(frozen=True)
class Tiling:
    """How a large image is divided into tiles, each of which the model sees at its usual size.

    Attributes:
        sizes: height and width of the tiles in pixels of the image. Of several sizes, small tiles find small objects
            and large ones large objects. Empty is the size of image that the model was trained for.
        overlap: least share of its height and width that a tile has in common with the next. An object that is not
            larger than this lies wholly in some tile.
        whole: also detect in the image as a whole, for objects that no tile holds.
        batch_size: tiles that the model runs on at once.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    overlap: float = 0.2
    whole: bool = True
    batch_size: int = 1

    def __post_init__(self) -> None:
        for height, width in self.sizes:
            if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
                raise UserError(f"tile {width}x{height}: expected sides of {MIN_SIDE} to {MAX_SIDE} pixels")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise UserError(f"tile overlap {self.overlap:g}: expected a share of 0 to {MAX_OVERLAP}")
        if self.batch_size < 1:
            raise UserError(f"tile batch size {self.batch_size}: expected 1 or more")

    def of_model(self, preprocessing: Preprocessing) -> Tiling:
        """Return the tiling with a size: its own, or that of the images that a model was trained for.

        Raises:
            UserError: the model takes images as they are, so that no size is known.
        """
        if self.sizes:
            return self
        if preprocessing.fit == "none":
            raise UserError("tile size: this model does not resize images, so none is known; give one")
        # At this size the resize changes nothing: the model sees the pixels of the image.
        return replace(
            self, sizes=(preprocessing.box or (preprocessing.short_side, preprocessing.long_side),)
        )

    def parts(self, height: int, width: int) -> list[Rect]:
        """Return the parts of an image to run the model on: tiles row by row, size by size, and last the whole.

        Tiles of one size are equal and overlap by at least `overlap`. Where the image is not larger than a tile, it is
        the only one of that size.

        Raises:
            UserError: there would be more than `MAX_TILES`, or no size is known.
        """
        if not self.sizes:
            raise UserError("tile size: not known; give one, or use Tiling.of_model")
        whole = (0, 0, width, height)
        parts = {tile: None for size in self.sizes for tile in self._tiles(height, width, size)}
        if self.whole:
            parts.pop(whole, None)
            parts[whole] = None
        return list(parts)

    def _tiles(self, height: int, width: int, size: tuple[int, int]) -> list[Rect]:
        rows, down = _starts(height, size[0], self.overlap)
        columns, across = _starts(width, size[1], self.overlap)
        if len(rows) * len(columns) > MAX_TILES:
            raise UserError(
                f"tile {size[1]}x{size[0]}: an image of {width}x{height} pixels has {len(rows) * len(columns):,} of "
                f"them, more than {MAX_TILES:,}; choose larger tiles, or less overlap"
            )
        return [(x, y, x + across, y + down) for y in rows for x in columns]


def parse_tile_size(text: str) -> tuple[int, int]:
    """Return height and width of a tile: `800` is a square, `800x600` width x height.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    if match is None:
        raise UserError(f"tile '{text}': expected a size in pixels, 800 or 800x600 (width x height)")
    return int(match[2] or match[1]), int(match[1])


def _starts(length: int, side: int, overlap: float) -> tuple[list[int], int]:
    """Return where the tiles along one side of an image begin, evenly spaced, and the side of a tile in pixels."""
    if length <= side:
        return [0], length
    shared = math.ceil(overlap * side - 1e-9)  # pixels
    gaps = -(-(length - side) // max(1, side - shared))
    return [i * (length - side) // gaps for i in range(gaps + 1)], side
