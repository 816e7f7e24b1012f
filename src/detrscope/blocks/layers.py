"""The small modules that encoders, decoders and heads are made of."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from detrscope.core.probe import Probe
from detrscope.ops.attention import attend
from detrscope.ops.convolution import is_learning, may_leave_torch
from detrscope.ops.dropout import dropout
from detrscope.ops.linear import linear, two_linear


class Linear(nn.Linear):
    """torch's, multiplied as `ops.linear` does."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head attention: four projections around door 1.

    Args:
        width: D, divisible by heads.
        heads: h.
        dropout: of attention weights, in training.
        site: the name of this place along the path.
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

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
        probe: Probe | None = None,
    ) -> Tensor:
        """[B, Q, D] queries over [B, S, D] keys and values -> [B, Q, D]."""
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
        )
        return self.output(mixed)


class Dropout(nn.Module):
    """`ops.dropout` in training, nothing otherwise."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return dropout(x, self.probability) if self.training else x


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, token by token."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = Linear(width, hidden)
        self.dropout = Dropout(dropout)
        self.contract = Linear(hidden, width)
        for layer in (self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        first, second = self.expand, self.contract
        if not self.training and may_leave_torch(tokens) and not is_learning(tokens, first.weight):
            return two_linear(tokens, first.weight, first.bias, second.weight, second.bias)
        hidden = linear(tokens, first.weight, first.bias, relu=True)  # [B, S, H]
        return self.contract(self.dropout(hidden))


class MLP(nn.Module):
    """Linear layers with ReLU between them, none after the last."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the output."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """[..., widths[0]] -> [..., widths[-1]]."""
        return self.last(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """What the last layer reads: [..., widths[0]] -> [..., widths[-2]]."""
        for layer in self.layers[:-1]:
            x = linear(x, layer.get_parameter("weight"), layer.get_parameter("bias"), relu=True)
        return x


class PostNorm(nn.Module):
    """Residual with the norm after the sum, as in the original transformer and DETR."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def enter(self, x: Tensor) -> Tensor:
        """What the sublayer sees."""
        return x

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        """What goes on to the next sublayer."""
        return self.norm(x + self.dropout(update))


class PreNorm(nn.Module):
    """Residual with the norm before the sublayer: the stream itself is never normalised."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def enter(self, x: Tensor) -> Tensor:
        """What the sublayer sees."""
        return self.norm(x)

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        """What goes on to the next sublayer."""
        return x + self.dropout(update)


Residual = PostNorm | PreNorm
RESIDUALS: dict[str, type[PostNorm] | type[PreNorm]] = {"post": PostNorm, "pre": PreNorm}
