"""Stacks of encoder and decoder layers with named attention sites."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from detrscope.blocks.attention import CrossAttention, QuerySelfAttention, TokenSelfAttention
from detrscope.blocks.decoder import DecoderLayer
from detrscope.blocks.encoder import EncoderLayer
from detrscope.blocks.layers import RESIDUALS, FeedForward, Residual
from detrscope.families.settings import LayersConfig, NormPosition

MakeAttention = Callable[[str], nn.Module]
"""Site name -> attention module."""


def encoder_layers(
    width: int,
    config: LayersConfig,
    norm: NormPosition,
    attention: MakeAttention | None = None,
    feedforward: type[FeedForward] = FeedForward,
) -> list[EncoderLayer]:
    """Build layers with the sites `encoder.N.self`; dense attention unless another is given."""

    def dense(site: str) -> nn.Module:
        return TokenSelfAttention(width, config.heads, config.dropout, site)

    residual = RESIDUALS[norm]
    return [
        EncoderLayer(
            (attention or dense)(f"encoder.{i}.self"),
            feedforward(width, config.feedforward, config.dropout),
            (residual(width, config.dropout), residual(width, config.dropout)),
        )
        for i in range(config.layers)
    ]


def decoder_layers(
    width: int,
    config: LayersConfig,
    norm: NormPosition | type[Residual],
    cross_attention: MakeAttention | None = None,
    cross_residual: type[Residual] | None = None,
    feedforward: type[FeedForward] = FeedForward,
    self_attention: Callable[[str], QuerySelfAttention] | None = None,
) -> list[DecoderLayer]:
    """Build layers with the sites `decoder.N.self` and `decoder.N.cross`; attention is dense unless given.

    The residual around cross-attention is that of the rest unless given.
    """

    def among_queries(site: str) -> QuerySelfAttention:
        return QuerySelfAttention(width, config.heads, config.dropout, site)

    def dense(site: str) -> nn.Module:
        return CrossAttention(width, config.heads, config.dropout, site)

    residual = RESIDUALS[norm] if isinstance(norm, str) else norm
    return [
        DecoderLayer(
            (self_attention or among_queries)(f"decoder.{i}.self"),
            (cross_attention or dense)(f"decoder.{i}.cross"),
            feedforward(width, config.feedforward, config.dropout),
            (
                residual(width, config.dropout),
                (cross_residual or residual)(width, config.dropout),
                residual(width, config.dropout),
            ),
        )
        for i in range(config.layers)
    ]
