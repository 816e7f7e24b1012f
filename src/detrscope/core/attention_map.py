"""Attention as a map over the image, or over queries: values, where they lie, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detrscope.core.argument_check import checked_methods
from detrscope.core.geometry import Geometry
from detrscope.core.types import Level

Merge = Literal["mean", "max"]


@dataclass(frozen=True)
class Selection:
    """What was chosen out of a trace to make a map."""

    site: str  # such as decoder.5.cross; of what is computed over layers, the name of the method
    queries: tuple[int, ...] = ()  # rows; several are averaged
    head: int | None = None  # None: merged over heads
    merge: Merge = "mean"  # how heads were merged
    level: int | None = None  # None: all of them
    point: tuple[float, float] | None = None  # x, y of the original whose token it is


@checked_methods
@dataclass(frozen=True, repr=False)
class AttentionMap:
    """Attention over the tokens of one or several maps of the image. Made by `Trace` and by the lens.

    Attributes:
        parts: the weight of each token, [H_l, W_l] for each level shown; zero on padding.
        level_ids: which level each part is of.
        geometry: the way to the pixels of the original.
        image: uint8 [3, h, w] what the model saw, without padding.
        selection: what was chosen.
        caption: model, site, query, head, level and normalisation in one line.
    """

    parts: tuple[Tensor, ...]
    level_ids: tuple[int, ...]
    geometry: Geometry
    image: Tensor
    selection: Selection
    caption: str = ""

    def __repr__(self) -> str:
        sizes = " + ".join(f"{part.shape[0]}x{part.shape[1]}" for part in self.parts)
        return f"AttentionMap({self.caption or self.selection.site}, {sizes})"

    @property
    def values(self) -> Tensor:
        """The map, [H, W]: weight of each token; with several levels the mass in each cell of the finest of them."""
        if len(self.parts) == 1:
            return self.parts[0]
        finest = max(self.parts, key=Tensor.numel)
        height, width = finest.shape
        return torch.stack(
            [_overlap(height, p.shape[0], p) @ p @ _overlap(width, p.shape[1], p).T for p in self.parts]
        ).sum(0)

    @property
    def mass(self) -> float:
        """The sum of all weights: 1 for softmax attention, less where deformable points fell outside."""
        return float(sum(part.double().sum() for part in self.parts))

    def on_image(self, smooth: bool = True) -> Tensor:
        """The same mass over the pixels of the original: float32 [height, width], summing to `mass`.

        The weight of a token is dealt to the pixels of its cell, evenly, or smoothly between middles of cells. Levels
        are added up.
        """
        out = torch.zeros(self.geometry.height, self.geometry.width)
        for part in self.parts:
            down, across = self.geometry.spread(Level(*part.shape), smooth)
            out += down @ part.float().cpu() @ across.T
        return out

    def peak(self) -> tuple[float, float]:
        """Where most mass for its area lies: x, y in pixels of the original, the middle of a cell."""
        values = self.values
        level = Level(*values.shape)
        x, y = self.geometry.centres(level)[int(values.argmax())].tolist()
        return x, y


@checked_methods
@dataclass(frozen=True)
class QueryAttention:
    """How much one query looks at each of the others (decoder self-attention).

    Attributes:
        values: [Q] weights.
        boxes_cxcywh: [Q, 4] what each query predicts in the same layer.
        geometry: the way to the pixels of the original.
        image: uint8 [3, h, w] what the model saw, without padding.
        selection: what was chosen.
        caption: model, site, query, head and normalisation in one line.
    """

    values: Tensor
    boxes_cxcywh: Tensor
    geometry: Geometry
    image: Tensor
    selection: Selection
    caption: str = ""

    @property
    def mass(self) -> float:
        """The sum of all weights."""
        return float(self.values.double().sum())

    def on_image(self) -> Tensor:
        """Each query's weight dealt evenly to the pixels of its box inside the original: float32 [height, width].

        What belongs to boxes that lie outside altogether is not shown.
        """
        g = self.geometry
        out = torch.zeros(g.height, g.width)
        low, high = g.boxes_xyxy(self.boxes_cxcywh.float().cpu()).split(2, dim=-1)  # [Q, 2]
        sides = []
        for axis, size in ((1, g.height), (0, g.width)):
            edge = torch.arange(size + 1, dtype=torch.float32)
            inside = torch.minimum(edge[1:], high[:, axis, None]) - torch.maximum(
                edge[:-1], low[:, axis, None]
            )
            inside = inside.clamp(min=0)  # [Q, size]
            sides.append(inside / inside.sum(1, keepdim=True).clamp(min=1e-6))
        down, across = sides
        out += (down * self.values.float().cpu()[:, None]).T @ across
        return out

    def peak(self) -> tuple[float, float]:
        """The middle of the box of the query looked at most, pixels of the original."""
        box = self.geometry.boxes_xyxy(self.boxes_cxcywh[int(self.values.argmax())].float())
        return float((box[0] + box[2]) / 2), float((box[1] + box[3]) / 2)


def merged_heads(rows: Tensor, head: int | None, merge: Merge) -> Tensor:
    """One head, or the mean or greatest over heads: [h, ...] -> [...]."""
    if head is not None:
        return rows[head]
    return rows.mean(0) if merge == "mean" else rows.amax(0)


def parts_of(row: Tensor, levels: Sequence[Level]) -> tuple[Tensor, ...]:
    """A row over all tokens as the maps it is made of: [S] -> [H_l, W_l] for each level."""
    sizes = [level.tokens for level in levels]
    return tuple(part.view(*level) for part, level in zip(row.split(sizes), levels, strict=True))


def _overlap(cells: int, others: int, like: Tensor) -> Tensor:
    """Share of each of `others` equal cells of a side that lies in each of `cells`: [cells, others]."""
    edges = torch.arange(cells + 1, device=like.device, dtype=like.dtype) * (others / cells)
    other = torch.arange(others, device=like.device, dtype=like.dtype)
    inside = torch.minimum(edges[1:, None], other + 1) - torch.maximum(edges[:-1, None], other)
    return inside.clamp(min=0)
