"""Dense attention as modules: projections around `ops.attention.attend`."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from detrscope.blocks.layers import Linear
from detrscope.core.probe import Probe
from detrscope.core.types import Level, Pyramid, Windows
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
        windows: Windows | None = None,
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
            windows=windows,
        )
        return cast(Tensor, self.output(mixed))


class TokenSelfAttention(Attention):
    """Self-attention of the encoder's tokens; positions go to queries and keys, not to values (DETR, figure 10)."""

    def forward(self, x: Tensor, pyramid: Pyramid, probe: Probe | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D]; positions and padding are those of the pyramid."""
        located = x + pyramid.position
        return self.attend(located, located, x, padding=pyramid.padding, probe=probe, levels=pyramid.levels)


class WindowSelfAttention(Attention):
    """Self-attention of the tokens of a map, all of them or those of the same window; positions are in the tokens.

    Args:
        width: D, divisible by heads.
        heads: h.
        windows: division of the map; None for attention over all of it.
        site: name of the attention site, such as `backbone.0.self`.
    """

    def __init__(self, width: int, heads: int, windows: Windows | None, site: str) -> None:
        super().__init__(width, heads, 0.0, site)
        self.windows = windows

    def forward(self, x: Tensor, pyramid: Pyramid, probe: Probe | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D]; the pyramid has the size of the map."""
        return self.attend(x, x, x, probe=probe, levels=pyramid.levels, windows=self.windows)


class UnbiasedKeySelfAttention(WindowSelfAttention):
    """The same without a bias of keys, which changes no softmax (LW-DETR)."""

    def __init__(self, width: int, heads: int, windows: Windows | None, site: str) -> None:
        super().__init__(width, heads, windows, site)
        self.key = Linear(width, width, bias=False)
        nn.init.xavier_uniform_(self.key.weight)


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


class GroupSelfAttention(QuerySelfAttention):
    """Self-attention of queries that come in groups in training, within each (Group DETR, arXiv:2207.13085, section 3).

    Args:
        width: D, divisible by heads.
        heads: h.
        dropout: probability of dropping an attention weight in training.
        site: name of the attention site.
        groups: number of groups in training; in evaluation there is one.
    """

    def __init__(self, width: int, heads: int, dropout: float, site: str, groups: int) -> None:
        super().__init__(width, heads, dropout, site)
        self.groups = groups

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None, probe: Probe | None = None) -> Tensor:
        """[B, groups * Q, D] -> [B, groups * Q, D]."""
        if not self.training:
            return super().forward(x, position, mask, probe)
        shape = (x.shape[0] * self.groups, -1, x.shape[2])
        mixed = super().forward(x.reshape(shape), position.reshape(shape), mask, probe)
        return mixed.reshape(x.shape)
