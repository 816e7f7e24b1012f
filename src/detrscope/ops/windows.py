"""Tokens of a feature map by window, and back; windows that the map does not fill are padded with tokens to ignore."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.types import Level, Windows

IGNORED = -3e4  # score of padding, which float16 can hold


def split_windows(x: Tensor, windows: Windows, level: Level) -> Tensor:
    """Divide tokens [B, h, S + E, d] of a map into windows: [B * windows, h, s + E / windows, d].

    Args:
        x: tokens of the map row by row, then E extra ones, as many for each window.
        windows: the division.
        level: size of the map.
    """
    heads, tokens, width = x.shape[1:]
    height, across = windows.sides(level)
    grid = x[:, :, : level.tokens].reshape(-1, heads, *level, width)
    if not _divides(windows, level):
        below, right = height * windows.rows - level.height, across * windows.columns - level.width
        grid = F.pad(grid, (0, 0, 0, right, 0, below))
    grid = grid.reshape(-1, heads, windows.rows, height, windows.columns, across, width)
    parts = grid.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, heads, height * across, width)
    if tokens == level.tokens:
        return parts
    extra = x[:, :, level.tokens :].reshape(x.shape[0], heads, windows.count, -1, width)
    return torch.cat([parts, extra.transpose(1, 2).flatten(0, 1)], dim=2)


def join_windows(x: Tensor, windows: Windows, level: Level) -> Tensor:
    """Put the tokens of windows [B * windows, h, s + E / windows, d] back: [B, h, S + E, d]."""
    heads, tokens, width = x.shape[1:]
    height, across = windows.sides(level)
    inside = height * across
    grid = x[:, :, :inside].reshape(-1, windows.rows, windows.columns, heads, height, across, width)
    grid = grid.permute(0, 3, 1, 4, 2, 5, 6)
    grid = grid.reshape(-1, heads, height * windows.rows, across * windows.columns, width)
    if not _divides(windows, level):
        grid = grid[:, :, : level.height, : level.width]
    joined = grid.reshape(-1, heads, level.tokens, width)
    if tokens == inside:
        return joined
    extra = x[:, :, inside:].reshape(-1, windows.count, heads, tokens - inside, width)
    return torch.cat([joined, extra.transpose(1, 2).flatten(2, 3)], dim=2)


def window_padding(windows: Windows, level: Level, extra: int, like: Tensor) -> Tensor | None:
    """Return a bias against the tokens that only pad windows: [windows, 1, 1, s + E / windows]; None where none do.

    Finite, since some windows may be all padding.
    """
    if _divides(windows, level):
        return None
    real = split_windows(like.new_ones(1, 1, level.tokens + extra, 1), windows, level)
    return ((1 - real) * IGNORED).transpose(2, 3)


def _divides(windows: Windows, level: Level) -> bool:
    """Return whether a map's sides are known, and multiples of the number of windows."""
    known = type(level.height) is int and type(level.width) is int  # not symbols of a graph being exported
    return known and level.height % windows.rows == 0 and level.width % windows.columns == 0
