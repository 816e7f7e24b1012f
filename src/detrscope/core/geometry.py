"""Convert between pixels of the original image, pixels of the model's input and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.errors import UserError
from detrscope.core.types import Level


@dataclass(frozen=True)
class Geometry:
    """Crop, resize and padding of one image.

    "Original" is the upright image; all boxes and points refer to it. x and y are continuous, pixel i covers i to
    i + 1. A cell of a map of H x W tokens covers 1/H by 1/W of the model's input, padding included.

    Attributes:
        height: height of the original, pixels.
        width: width of the original, pixels.
        crop_xyxy: part of the original that the model ran on, pixels.
        content: height and width of that part after the resize.
        padded: height and width of the model's input; padding lies at the right and at the bottom.
        orientation: EXIF orientation of the file, 1..8; 1 where its pixels are stored upright.
    """

    height: int
    width: int
    crop_xyxy: tuple[float, float, float, float]
    content: tuple[int, int]
    padded: tuple[int, int]
    orientation: int = 1

    @classmethod
    def of_resize(cls, height: int, width: int, content: tuple[int, int], orientation: int = 1) -> Geometry:
        """Return the geometry of a whole image resized to `content` (height, width), not padded."""
        whole = (0.0, 0.0, float(width), float(height))
        return cls(height, width, whole, content, content, orientation)

    def padded_to(self, height: int, width: int) -> Geometry:
        """Return the geometry of the image in a batch of this size."""
        return replace(self, padded=(height, width))

    def of_model_input(self) -> Geometry:
        """Return the geometry that takes the model's input, without its padding, as the original."""
        return Geometry.of_resize(*self.content, self.content).padded_to(*self.padded)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the model's input per pixel of the original, along x and y."""
        x0, y0, x1, y1 = self.crop_xyxy
        return self.content[1] / (x1 - x0), self.content[0] / (y1 - y0)

    def to_model(self, points: Tensor) -> Tensor:
        """Convert pixels of the original to pixels of the model's input: [..., 2] x, y -> [..., 2]."""
        return (points - points.new_tensor(self.crop_xyxy[:2])) * points.new_tensor(self.scale)

    def to_original(self, points: Tensor) -> Tensor:
        """Convert pixels of the model's input to pixels of the original: [..., 2] x, y -> [..., 2]."""
        return points / points.new_tensor(self.scale) + points.new_tensor(self.crop_xyxy[:2])

    def boxes_xyxy(self, boxes_cxcywh: Tensor) -> Tensor:
        """Convert predicted boxes, 0..1 of the content, to pixels of the original: [..., 4] -> [..., 4]."""
        x0, y0, x1, y1 = self.crop_xyxy
        boxes = scale_boxes(cxcywh_to_xyxy(boxes_cxcywh), x1 - x0, y1 - y0)
        return boxes + boxes.new_tensor([x0, y0, x0, y0])

    def points_of(self, points: Tensor) -> Tensor:
        """Convert sampling points of deformable attention to pixels of the original.

        Args:
            points: [..., 2] x, y in 0..1 of the model's input with its padding.

        Returns:
            [..., 2] x, y.
        """
        return self.to_original(points * points.new_tensor([self.padded[1], self.padded[0]]))

    def to_stored(self, points: Tensor) -> Tensor:
        """Convert pixels of the original to pixels of the file as stored, before EXIF rotation: [..., 2]."""
        x, y = points.unbind(-1)
        width, height = self.width, self.height
        stored = {
            1: (x, y),
            2: (width - x, y),
            3: (width - x, height - y),
            4: (x, height - y),
            5: (y, x),
            6: (y, width - x),
            7: (height - y, width - x),
            8: (height - y, x),
        }[self.orientation]
        return torch.stack(stored, dim=-1)

    def token_at(self, x: float, y: float, level: Level) -> int:
        """Return the index, row by row, of the token whose cell holds a point of the original.

        Raises:
            UserError: the point is outside the part of the image that the model ran on.
        """
        x0, y0, x1, y1 = self.crop_xyxy
        if not (x0 <= x <= x1 and y0 <= y <= y1):
            raise UserError(
                f"point ({x:g}, {y:g}) is outside of the image: x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
            )
        point = self.to_model(torch.tensor([x, y], dtype=torch.float64))
        inside = self.inside(level)
        last_row, last_column = int(inside.any(1).sum()) - 1, int(inside.any(0).sum()) - 1
        row = min(int(point[1] / self.padded[0] * level.height), last_row)
        column = min(int(point[0] / self.padded[1] * level.width), last_column)
        return row * level.width + column

    def centres(self, level: Level) -> Tensor:
        """Return the centre of each token's cell in pixels of the original: [H * W, 2] x, y."""
        y = (torch.arange(level.height) + 0.5) / level.height
        x = (torch.arange(level.width) + 0.5) / level.width
        return self.points_of(torch.cartesian_prod(y, x).flip(1))

    def inside(self, level: Level) -> Tensor:
        """Return which cells of a map begin on the image, not on padding: [H, W] bool, as models resize padding."""
        y = torch.arange(level.height) * (self.padded[0] / level.height) < self.content[0]
        x = torch.arange(level.width) * (self.padded[1] / level.width) < self.content[1]
        return y[:, None] & x

    def cell_means(self, pixels: Tensor, level: Level) -> Tensor:
        """Return the mean of the pixels in each cell: [..., height, width] of the original -> [..., H, W] float32.

        A pixel on the border of two cells counts in each by its share; on padding the mean is 0.
        """
        down, across = self.spread(level)  # [height, H], [width, W]; each column sums to 1
        return down.T @ pixels.float() @ across

    def spread(self, level: Level, smooth: bool = False) -> tuple[Tensor, Tensor]:
        """Return the shares of each cell's mass that the pixels of the original get, separately along y and x.

        `down @ map @ across.T` is a map over original pixels with the mass of the map: every column sums to 1, except
        for cells that lie wholly on padding, which sum to 0.

        Args:
            level: size of the map.
            smooth: interpolate linearly between centres of cells; otherwise spread evenly within each cell.

        Returns:
            down [height, H] and across [width, W].
        """
        x0, y0, x1, y1 = self.crop_xyxy
        axes = (
            (self.height, y0, y1, self.content[0], self.padded[0], level.height),
            (self.width, x0, x1, self.content[1], self.padded[1], level.width),
        )
        down, across = (
            _shares(size, low, high, content / padded * cells, cells, smooth)
            for size, low, high, content, padded, cells in axes
        )
        return down, across


def _shares(size: int, low: float, high: float, covered: float, cells: int, smooth: bool) -> Tensor:
    """Return [size, cells], where pixels low..high of a side show cells 0..covered of its map."""
    edges = torch.arange(size + 1, dtype=torch.float64).clamp(low, high)
    edges = (edges - low) / (high - low) * covered  # in cells
    width = edges[1:] - edges[:-1]  # [size]
    cell = torch.arange(cells, dtype=torch.float64)
    if smooth:
        last = math.ceil(covered - 1e-9) - 1  # beyond it there is padding only
        middle = ((edges[1:] + edges[:-1]) / 2 - 0.5).clamp(0, last)  # [size]
        share = (1 - (middle[:, None] - cell).abs()).clamp(min=0) * width[:, None]
    else:
        share = torch.minimum(edges[1:, None], cell + 1) - torch.maximum(edges[:-1, None], cell)
        share = share.clamp(min=0)
    total = share.sum(0)
    return torch.where(total > 0, share / total.clamp(min=1e-12), 0).float()
