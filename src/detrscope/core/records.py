"""What a door keeps of one attention site: the small exact thing from which any map can be computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseRecord:
    """Softmax attention. A row of the map costs one softmax; the map itself is never stored."""

    query: Tensor  # [B, h, Q, d]
    key: Tensor  # [B, h, S, d]
    value: Tensor  # [B, h, S, dv]
    scale: float  # scores = query @ key^T * scale + bias
    bias: Tensor | None = None  # broadcasts to [B, h, Q, S]: padding, masks and edits
    gain: Tensor | None = None  # broadcasts to [B, h, Q, S]: multiplies the weights after the softmax

    def rows(self, queries: Tensor | slice = slice(None)) -> Tensor:
        """Attention of some queries over all keys, every head: [B, h, Q', S].

        Each row sums to 1 unless an edit turned it down.
        """
        scores = self.query[:, :, queries] @ self.key.transpose(-1, -2) * self.scale  # [B, h, Q', S]
        if self.bias is not None:
            scores = scores + _rows_of(self.bias, queries)
        weights = scores.softmax(-1)
        return weights if self.gain is None else weights * _rows_of(self.gain, queries)

    def output(self) -> Tensor:
        """What the site gave to the output projection, rebuilt: rows @ value, [B, Q, h * dv]."""
        return (self.rows() @ self.value).transpose(1, 2).flatten(2)


Record = DenseRecord


def _rows_of(part: Tensor, queries: Tensor | slice) -> Tensor:
    """The rows of a tensor that broadcasts to [B, h, Q, S]."""
    if part.dim() < 2 or part.shape[-2] == 1:
        return part
    return part[..., queries, :]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask, True where looking is forbidden, as a bias of 0 and -inf of the same shape."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
