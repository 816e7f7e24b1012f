"""Encoders: self-attention of the tokens."""

from __future__ import annotations

from torch import Tensor, nn

from detrscope.blocks.layers import FeedForward, Residual
from detrscope.core.probe import Probe
from detrscope.core.types import Pyramid


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
