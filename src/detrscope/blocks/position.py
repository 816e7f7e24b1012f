"""Positional encodings as modules: fixed sines, or learned rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrscope.ops.position import sine_position


class SinePosition(nn.Module):
    """Fixed sine encoding (`ops.position.sine_position`)."""

    def __init__(self, width: int, offset: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.offset = offset

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Map [B, D, H, W] and padding [B, H, W] -> [B or 1, H*W, D]."""
        height, width = features.shape[-2:]
        return sine_position(padding, height, width, self.width, features, self.offset)


class LearnedPosition(nn.Module):
    """A learned vector per column and per row, concatenated (DETR, table 4), for maps of at most `size` a side."""

    def __init__(self, width: int, size: int = 50) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(size, width // 2))
        self.columns = nn.Parameter(torch.rand(size, width // 2))

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Map [B, D, H, W] -> [1, H*W, D]: columns first, then rows.

        A map larger than `size` repeats the last row or column.
        """
        height, width = features.shape[-2:]
        y = torch.arange(height, device=features.device).clamp(max=len(self.rows) - 1)
        x = torch.arange(width, device=features.device).clamp(max=len(self.columns) - 1)
        columns = self.columns[x].expand(height, -1, -1)  # [H, W, D/2]
        rows = self.rows[y, None].expand(-1, width, -1)  # [H, W, D/2]
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)[None]


Position = SinePosition | LearnedPosition
