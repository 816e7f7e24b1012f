"""Small modules of encoders, decoders and heads: linear layers, dropout, feed-forward, residuals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from detrscope.ops.convolution import convolution_is_learning, may_leave_torch
from detrscope.ops.dropout import dropout
from detrscope.ops.linear import linear, linear_pair


class Linear(nn.Linear):
    """Linear layer that multiplies by `ops.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(x, self.weight, self.bias)


class Dropout(nn.Module):
    """`ops.dropout` in training, the identity in evaluation."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...], the same shape."""
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
        if (
            not self.training
            and may_leave_torch(tokens)
            and not convolution_is_learning(tokens, first.weight)
        ):
            return linear_pair(tokens, first.weight, first.bias, second.weight, second.bias)
        hidden = linear(tokens, first.weight, first.bias, relu=True)  # [B, S, H]
        return cast(Tensor, self.contract(self.dropout(hidden)))


class GeluFeedForward(FeedForward):
    """Two linear layers with a GELU between, token by token."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        hidden = F.gelu(self.expand(tokens))  # [B, S, H]
        return cast(Tensor, self.contract(self.dropout(hidden)))


class GatedFeedForward(FeedForward):
    """Two linear layers with SiLU between, whose inside is multiplied by a third (SwiGLU, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(width, hidden, dropout)
        self.gate = Linear(width, hidden)
        nn.init.xavier_uniform_(self.gate.weight)
        for layer in (self.gate, self.expand, self.contract):
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        hidden = F.silu(self.gate(tokens)) * self.expand(tokens)  # [B, S, H]
        return cast(Tensor, self.contract(self.dropout(hidden)))


class MLP(nn.Module):
    """Linear layers with ReLU between them, none after the last."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    @property
    def width(self) -> int:
        """Width of the input."""
        return cast(nn.Linear, self.layers[0]).in_features

    @property
    def last(self) -> nn.Linear:
        """Output layer."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """[..., widths[0]] -> [..., widths[-1]]."""
        return cast(Tensor, self.last(self.hidden(x)))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the input of the last layer: [..., widths[0]] -> [..., widths[-2]]."""
        for layer in self.layers[:-1]:
            x = linear(x, layer.get_parameter("weight"), layer.get_parameter("bias"), relu=True)
        return x


class SiluMLP(MLP):
    """Linear layers with SiLU between them, none after the last."""

    def hidden(self, x: Tensor) -> Tensor:
        """Return the input of the last layer: [..., widths[0]] -> [..., widths[-2]]."""
        for layer in self.layers[:-1]:
            x = F.silu(layer(x))
        return x


def zero_last(box_head: MLP) -> MLP:
    """Set the last layer to zero, so that a box head moves no box at the start of training."""
    nn.init.zeros_(box_head.last.weight)
    nn.init.zeros_(box_head.last.bias)
    return box_head


def prior_head(width: int, classes: int, prior: float) -> nn.Linear:
    """Return a class head whose classes start at a probability (focal loss, arXiv:1708.02002, section 4.1)."""
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, -math.log(1 / prior - 1))
    return head


def apply_layer_in_float32(head: nn.Module, x: Tensor) -> Tensor:
    """Apply a head in the precision of its weights: boxes and scores need more bits than bfloat16 has."""
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, head(x.to(next(head.parameters()).dtype)))


class Residual(nn.Module, ABC):
    """Norm, dropout and residual connection around a sublayer: `leave(x, sublayer(enter(x)))`."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    @abstractmethod
    def enter(self, x: Tensor) -> Tensor:
        """Return the input of the sublayer, [B, Q, D], from the residual stream `x` [B, Q, D]."""

    @abstractmethod
    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        """Return the residual stream `x` [B, Q, D] with the output of the sublayer, `update` [B, Q, D], added."""


class PostNorm(Residual):
    """Residual with the norm after the sum, as in the original transformer and DETR."""

    def enter(self, x: Tensor) -> Tensor:
        """Return `x` [B, Q, D] itself."""
        return x

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        """Add and normalise: twice [B, Q, D] -> [B, Q, D]."""
        return cast(Tensor, self.norm(x + self.dropout(update)))


class PreNorm(Residual):
    """Residual with the norm before the sublayer: the residual stream itself is never normalised."""

    def enter(self, x: Tensor) -> Tensor:
        """Normalise: [B, Q, D] -> [B, Q, D]."""
        return cast(Tensor, self.norm(x))

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        """Add: twice [B, Q, D] -> [B, Q, D]."""
        return cast(Tensor, x + self.dropout(update))


class GatedNorm(PostNorm):
    """Residual whose sum is weighted by two gates, computed from both parts (D-FINE, arXiv:2410.13842, section 5.1)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.gate = Linear(2 * width, 2 * width)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        """Weight, add and normalise: twice [B, Q, D] -> [B, Q, D]."""
        update = self.dropout(update)
        first, second = self.gate(torch.cat([x, update], dim=-1)).sigmoid().chunk(2, dim=-1)  # [B, Q, D] each
        return cast(Tensor, self.norm(first * x + second * update))


class ScaledPreNorm(PreNorm):
    """The same with a learned factor for each channel of what the sublayer adds (LayerScale, arXiv:2103.17239).

    In training, whole images skip the sublayer at random (stochastic depth, arXiv:1603.09382).

    Args:
        width: D.
        skip: probability that an image skips it.
        factor: initial factor.
    """

    def __init__(self, width: int, skip: float, factor: float) -> None:
        super().__init__(width, 0.0)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.factor = nn.Parameter(torch.full((width,), factor))
        self.skip = skip

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        """Scale and add: twice [B, Q, D] -> [B, Q, D]."""
        return x + cast(Tensor, stochastic_depth(update * self.factor, self.skip, "row", self.training))


class RmsPostNorm(PostNorm):
    """Residual normalised after the sum by its root mean square alone (arXiv:1910.07467)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.norm: nn.Module = nn.RMSNorm(width, eps=RMS_EPS)


class GatedRmsNorm(GatedNorm):
    """Residual with gates, normalised by its root mean square alone."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.norm: nn.Module = nn.RMSNorm(width, eps=RMS_EPS)


RMS_EPS = 1e-6
RESIDUALS: dict[str, type[Residual]] = {"post": PostNorm, "pre": PreNorm}
