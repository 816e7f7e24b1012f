"""Dense attention as modules: projections around `ops.attention.attend`."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from detrscope.blocks.layers import Linear
from detrscope.core.probe import Probe
from detrscope.core.types import Level, Pyramid
from detrscope.ops.attention import attend


class Attention(nn.Module):
    """Projections of multi-head attention; subclasses say what attends to what.

    Args:
        width: D, divisible by heads.
        heads: h.
        dropout: probability of dropping an attention weight in training.
        site: name of the attention site, such as `encoder.0.self`.
    """

    def __init__(self, width: int, heads: int, dropout: float, site: str) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.site = site
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.output = Linear(width, width)
        for projection in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
        probe: Probe | None = None,
        levels: tuple[Level, ...] | None = None,
    ) -> Tensor:
        """Attend from [B, Q, D] queries to [B, S, D] keys and values, of maps of some sizes: [B, Q, D]."""
        mixed = attend(
            self.query(query),
            self.key(key),
            self.value(value),
            heads=self.heads,
            site=self.site,
            padding=padding,
            mask=mask,
            dropout=self.dropout if self.training else 0.0,
            probe=probe,
            levels=levels,
        )
        return cast(Tensor, self.output(mixed))


class TokenSelfAttention(Attention):
    """Self-attention of the encoder's tokens; positions go to queries and keys, not to values (DETR, figure 10)."""

    def forward(self, x: Tensor, pyramid: Pyramid, probe: Probe | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D]; positions and padding are those of the pyramid."""
        located = x + pyramid.position
        return self.attend(located, located, x, padding=pyramid.padding, probe=probe, levels=pyramid.levels)


class QuerySelfAttention(Attention):
    """Self-attention of the decoder's queries."""

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None, probe: Probe | None = None) -> Tensor:
        """[B, Q, D] -> [B, Q, D]; `mask` [Q, Q] is True where a query must not attend to another."""
        located = x + position
        return self.attend(located, located, x, mask=mask, probe=probe)


class CrossAttention(Attention):
    """Dense cross-attention of queries to all tokens; reference points or boxes are not used."""

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor | None,
        pyramid: Pyramid,
        probe: Probe | None = None,
    ) -> Tensor:
        """Attend from queries [B, Q, D] to the pyramid's tokens [B, S, D] -> [B, Q, D]."""
        located = pyramid.tokens + pyramid.position
        return self.attend(x + position, located, pyramid.tokens, padding=pyramid.padding, probe=probe)
