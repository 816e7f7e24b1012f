"""Stacks of dense layers with their sites named, for the families that use them."""

from __future__ import annotations

from detrscope.blocks.decoder import DecoderLayer
from detrscope.blocks.encoder import EncoderLayer
from detrscope.blocks.layers import RESIDUALS, Attention, FeedForward
from detrscope.families.settings import LayersConfig, NormPlace


def dense_encoder_layers(width: int, config: LayersConfig, norm: NormPlace) -> list[EncoderLayer]:
    """Layers with the sites `encoder.N.self`."""
    residual = RESIDUALS[norm]
    return [
        EncoderLayer(
            Attention(width, config.heads, config.dropout, f"encoder.{i}.self"),
            FeedForward(width, config.feedforward, config.dropout),
            (residual(width, config.dropout), residual(width, config.dropout)),
        )
        for i in range(config.layers)
    ]


def dense_decoder_layers(width: int, config: LayersConfig, norm: NormPlace) -> list[DecoderLayer]:
    """Layers with the sites `decoder.N.self` and `decoder.N.cross`."""
    residual = RESIDUALS[norm]
    return [
        DecoderLayer(
            Attention(width, config.heads, config.dropout, f"decoder.{i}.self"),
            Attention(width, config.heads, config.dropout, f"decoder.{i}.cross"),
            FeedForward(width, config.feedforward, config.dropout),
            (
                residual(width, config.dropout),
                residual(width, config.dropout),
                residual(width, config.dropout),
            ),
        )
        for i in range(config.layers)
    ]
