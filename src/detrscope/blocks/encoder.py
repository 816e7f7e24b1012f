"""Encoders: self-attention of the tokens, of all maps or of the coarsest."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detrscope.blocks.fusion import PyramidFusion
from detrscope.blocks.layers import FeedForward, Residual
from detrscope.core.probe import Probe
from detrscope.core.types import Pyramid
from detrscope.ops.position import sine_grid


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with its residual.

    Args:
        self_attention: dense or deformable: (tokens [B, S, D], pyramid, probe) -> [B, S, D].
        feedforward: [B, S, D] -> [B, S, D].
        residuals: of self-attention and feed-forward.
    """

    def __init__(
        self, self_attention: nn.Module, feedforward: FeedForward, residuals: tuple[Residual, Residual]
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_residual, self.feedforward_residual = residuals
        self.feedforward = feedforward

    def forward(self, x: Tensor, pyramid: Pyramid, probe: Probe | None) -> Tensor:
        """[B, S, D] -> [B, S, D]; positions, levels and padding are those of the pyramid."""
        x = self.self_residual.leave(x, self.self_attention(self.self_residual.enter(x), pyramid, probe))
        return self.feedforward_residual.leave(x, self.feedforward(self.feedforward_residual.enter(x)))


class Encoder(nn.Module):
    """A stack of layers and a final norm (nn.Identity where the family has none)."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, pyramid: Pyramid, probe: Probe | None = None) -> Pyramid:
        """Tokens [B, S, D] -> tokens [B, S, D]; everything else in the pyramid stays."""
        x = pyramid.tokens
        for layer in self.layers:
            x = layer(x, pyramid, probe)
        return pyramid.with_tokens(self.norm(x))


class HybridEncoder(nn.Module):
    """Self-attention of the tokens of the coarsest map, then convolutions that fuse the maps.

    RT-DETR (arXiv:2304.08069, section 4.2): attention within the map of the highest semantic level (AIFI), then
    fusion across scales (CCFF).

    Args:
        layers: of the coarsest map's tokens.
        fusion: of the maps.
        outputs: a module for each map, [B, C, H, W] -> [B, D, H, W].
    """

    def __init__(self, layers: list[EncoderLayer], fusion: PyramidFusion, outputs: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.fusion = fusion
        self.outputs = nn.ModuleList(outputs)

    def forward(self, pyramid: Pyramid, probe: Probe | None = None) -> Pyramid:
        """Tokens [B, S, C] -> tokens [B, S, D]; everything else in the pyramid stays."""
        sizes = [level.tokens for level in pyramid.levels]
        parts = list(torch.split(pyramid.tokens, sizes, dim=1))
        height, width = pyramid.levels[-1]
        coarsest = Pyramid(
            tokens=parts[-1],
            position=sine_grid(height, width, parts[-1].shape[2], parts[-1]),
            levels=pyramid.levels[-1:],
            padding=None if pyramid.padding is None else pyramid.padding[:, -sizes[-1] :],
        )
        for layer in self.layers:
            coarsest = replace(coarsest, tokens=layer(coarsest.tokens, coarsest, probe))
        parts[-1] = coarsest.tokens
        channels = parts[-1].shape[2]
        maps = [  # [B, C, H_l, W_l]; a view of the transposed tokens would lose "channels last"
            part.view(part.shape[0], *level, channels).permute(0, 3, 1, 2)
            for part, level in zip(parts, pyramid.levels, strict=True)
        ]
        fused = [output(x) for output, x in zip(self.outputs, self.fusion(maps), strict=True)]
        return pyramid.with_tokens(torch.cat([x.flatten(2).transpose(1, 2) for x in fused], dim=1))
