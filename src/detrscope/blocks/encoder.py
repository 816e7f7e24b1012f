"""Encoders: tokens look at tokens."""

from __future__ import annotations

from torch import Tensor, nn

from detrscope.blocks.deformable_attention import DeformableSelfAttention
from detrscope.blocks.layers import Attention, FeedForward, Residual
from detrscope.core.probe import Probe
from detrscope.core.types import Pyramid
from detrscope.ops.position import token_places, valid_ratios


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with its residual. Positions go to queries and keys, not to values."""

    def __init__(
        self, self_attention: Attention, feedforward: FeedForward, residuals: tuple[Residual, Residual]
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_residual, self.feedforward_residual = residuals
        self.feedforward = feedforward

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None, probe: Probe | None) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        y = self.self_residual.enter(x)
        where = y + position
        x = self.self_residual.leave(x, self.self_attention(where, where, y, padding=padding, probe=probe))
        return self.feedforward_residual.leave(x, self.feedforward(self.feedforward_residual.enter(x)))


class Encoder(nn.Module):
    """Layers one after the other, then a last norm where the family has one (nn.Identity where not)."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, pyramid: Pyramid, probe: Probe | None = None) -> Pyramid:
        """Tokens [B, S, D] -> tokens [B, S, D], places unchanged."""
        x = pyramid.tokens
        for layer in self.layers:
            x = layer(x, pyramid.position, pyramid.padding, probe)
        return pyramid.with_tokens(self.norm(x))


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each with its residual."""

    def __init__(
        self,
        self_attention: DeformableSelfAttention,
        feedforward: FeedForward,
        residuals: tuple[Residual, Residual],
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_residual, self.feedforward_residual = residuals
        self.feedforward = feedforward

    def forward(self, x: Tensor, pyramid: Pyramid, reference: Tensor, probe: Probe | None) -> Tensor:
        """[B, S, D] with reference points [B or 1, S, L, 2] -> [B, S, D]."""
        y = self.self_residual.enter(x)
        x = self.self_residual.leave(x, self.self_attention(y, pyramid, reference, probe))
        return self.feedforward_residual.leave(x, self.feedforward(self.feedforward_residual.enter(x)))


class DeformableEncoder(nn.Module):
    """Every token of every level looks around its own place on all levels (Deformable DETR, section 4.1)."""

    def __init__(self, layers: list[DeformableEncoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, pyramid: Pyramid, probe: Probe | None = None) -> Pyramid:
        """Tokens [B, S, D] -> tokens [B, S, D], places unchanged."""
        x = pyramid.tokens
        places = token_places(pyramid.padding, pyramid.levels, x)  # [B or 1, S, 2]
        ratios = valid_ratios(pyramid.padding, pyramid.levels, places)  # [B or 1, L, 2]
        reference = places[:, :, None] * ratios[:, None]  # [B or 1, S, L, 2]
        for layer in self.layers:
            x = layer(x, pyramid, reference, probe)
        return pyramid.with_tokens(self.norm(x))
