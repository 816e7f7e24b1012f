"""Attention maps over the image, or over queries, with their geometry and caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detrscope.core.argument_check import check_method_arguments
from detrscope.core.geometry import Geometry
from detrscope.core.types import Level

Merge = Literal["mean", "max"]


@dataclass(frozen=True)
class Selection:
    """Site, queries, head and level that a map was computed from."""

    site: str  # such as decoder.5.cross; the name of the method for maps over layers
    queries: tuple[int, ...] = ()  # rows; several are averaged
    head: int | None = None  # None: heads are merged
    merge: Merge = "mean"  # how heads are merged
    level: int | None = None  # None: all levels
    point: tuple[float, float] | None = None  # x, y in pixels of the original, which selected the token


@check_method_arguments
@dataclass(frozen=True, repr=False)
class AttentionMap:
    """Attention over the image tokens of one or several levels. Made by `Trace` and by the lens.

    Attributes:
        parts: weight of each token, [H_l, W_l] for each level shown; zero on padding.
        level_ids: level of each part.
        geometry: conversion to pixels of the original.
        image: uint8 [3, h, w], the model's input without padding.
        selection: site, queries, head and level of the map.
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
        """Weight of each token, [H, W]; with several levels, the mass in each cell of the finest."""
        if len(self.parts) == 1:
            return self.parts[0]
        finest = max(self.parts, key=Tensor.numel)
        height, width = finest.shape
        return torch.stack(
            [_overlap(height, p.shape[0], p) @ p @ _overlap(width, p.shape[1], p).T for p in self.parts]
        ).sum(0)

    @property
    def mass(self) -> float:
        """Sum of all weights: 1 for softmax attention, less where deformable points fall outside the image."""
        return float(sum(part.double().sum() for part in self.parts))

    def on_image(self, smooth: bool = True) -> Tensor:
        """Return the map over the pixels of the original: float32 [height, width], summing to `mass`.

        Levels are added up.

        Args:
            smooth: interpolate between centres of cells; otherwise spread each weight evenly over its cell.
        """
        out = torch.zeros(self.geometry.height, self.geometry.width)
        for part in self.parts:
            down, across = self.geometry.spread(Level(*part.shape), smooth)
            out += down @ part.float().cpu() @ across.T
        return out

    def peak(self) -> tuple[float, float]:
        """Return the centre x, y of the cell with most mass, in pixels of the original."""
        values = self.values
        level = Level(*values.shape)
        x, y = self.geometry.centres(level)[int(values.argmax())].tolist()
        return x, y


@check_method_arguments
@dataclass(frozen=True, repr=False)
class QueryAttention:
    """Attention of one query over all queries (decoder self-attention).

    Attributes:
        values: [Q] weights.
        boxes_cxcywh: [Q, 4] predicted boxes of the queries in the same layer.
        geometry: conversion to pixels of the original.
        image: uint8 [3, h, w], the model's input without padding.
        selection: site, query and head of the map.
        caption: model, site, query, head and normalisation in one line.
    """

    values: Tensor
    boxes_cxcywh: Tensor
    geometry: Geometry
    image: Tensor
    selection: Selection
    caption: str = ""

    def __repr__(self) -> str:
        return f"QueryAttention({self.caption or self.selection.site}, {len(self.values)} queries)"

    @property
    def mass(self) -> float:
        """Sum of all weights."""
        return float(self.values.double().sum())

    def on_image(self) -> Tensor:
        """Return each query's weight spread evenly over its box: float32 [height, width] pixels of the original.

        Boxes wholly outside the image are left out.
        """
        g = self.geometry
        boxes = g.boxes_xyxy(self.boxes_cxcywh.float().cpu())
        low, high = boxes[:, :2], boxes[:, 2:]  # [Q, 2]
        sides = []
        for axis, size in ((1, g.height), (0, g.width)):
            edge = torch.arange(size + 1, dtype=torch.float32)
            start, end = (
                torch.maximum(edge[:-1], low[:, axis, None]),
                torch.minimum(edge[1:], high[:, axis, None]),
            )
            inside = (end - start).clamp(min=0)  # [Q, size]
            sides.append(inside / inside.sum(1, keepdim=True).clamp(min=1e-6))
        down, across = sides
        return (down * self.values.float().cpu()[:, None]).T @ across

    def peak(self) -> tuple[float, float]:
        """Return the centre x, y of the box of the query with most weight, in pixels of the original."""
        box = self.geometry.boxes_xyxy(self.boxes_cxcywh[int(self.values.argmax())].float())
        return float((box[0] + box[2]) / 2), float((box[1] + box[3]) / 2)


def merge_attention_heads(rows: Tensor, head: int | None, merge: Merge) -> Tensor:
    """Return one head, or the mean or maximum over heads: [h, ...] -> [...]."""
    if head is not None:
        return rows[head]
    return rows.mean(0) if merge == "mean" else rows.amax(0)


def split_attention_by_level(row: Tensor, levels: Sequence[Level]) -> tuple[Tensor, ...]:
    """Split a row over all tokens into maps: [S] -> [H_l, W_l] for each level."""
    parts = torch.split(row, [level.tokens for level in levels])
    return tuple(part.view(*level) for part, level in zip(parts, levels, strict=True))


def _overlap(cells: int, others: int, like: Tensor) -> Tensor:
    """Return the share of each of `others` equal cells of a side that lies in each of `cells`: [cells, others]."""
    edges = torch.arange(cells + 1, device=like.device, dtype=like.dtype) * (others / cells)
    other = torch.arange(others, device=like.device, dtype=like.dtype)
    inside = torch.minimum(edges[1:, None], other + 1) - torch.maximum(edges[:-1, None], other)
    return inside.clamp(min=0)
