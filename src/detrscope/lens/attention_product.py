"""Attention applied as a linear map between queries and tokens, without forming the matrix.

A site's map is A: [Q, S], the mean over heads. Vectors are pushed through it row block by row block, or entry by entry
for deformable attention, so that memory stays that of a few rows however large the encoder is.

With the gradient of a prediction with respect to the site's output, A is the gradient-weighted map of Chefer et al.
2021 (arXiv:2103.15679, equation 5), the mean over heads of the positive part of dA * A. As out = A @ V,
dA = d_out @ V^T exactly, and no map needs a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from detrscope.core.records import DeformableRecord, DenseRecord, Record, record_to_float32

Entries = tuple[
    slice, Tensor, Tensor
]  # queries, their tokens [h, q, 4P], entries of the map there [h, q, 4P]
BLOCK = 1 << 22  # elements of attention, of all heads, in memory at a time


class AttentionProduct:
    """The attention matrix of a site as a linear operator.

    Args:
        record: record of a batch of one.
        gradient: [1, Q, h * dv], gradient of a prediction with respect to the site's output; None is plain attention.
        cache: keep the entries of deformable attention for the next pass, 4P + 4P numbers for each query and head
            (70 MB for a layer of Deformable DETR's encoder at 800x1066): computing them takes most of the time.
    """

    def __init__(self, record: Record, gradient: Tensor | None = None, *, cache: bool = False) -> None:
        self._record, self._gradient, self._cache = record, gradient, cache
        self._cached: list[Entries] = []

    def from_queries(self, weights: Tensor) -> Tensor:
        """Return weights @ A: [n, Q] -> [n, S]."""
        _, _, tokens = self._record.shape
        out = weights.new_zeros(len(weights), tokens)  # [n, S]
        if isinstance(self._record, DenseRecord):
            for queries, block in _blocks(record_to_float32(self._record), self._gradient):
                out += weights[:, queries] @ block
            return out
        for queries, index, entries in self._entries(self._record):
            for row, weight in zip(out, weights[:, queries], strict=True):
                row.scatter_add_(0, index.flatten().long(), (entries * weight[:, None]).flatten())
        return out

    def from_tokens(self, values: Tensor) -> Tensor:
        """Return A @ values: [S, n] -> [Q, n]."""
        out = values.new_zeros(self._record.shape[1], values.shape[1])  # [Q, n]
        if isinstance(self._record, DenseRecord):
            for queries, block in _blocks(record_to_float32(self._record), self._gradient):
                out[queries] = block @ values
            return out
        for queries, index, entries in self._entries(self._record):
            for column in range(values.shape[1]):
                out[queries, column] = (values[:, column][index] * entries).sum((0, 2))
        return out

    def _entries(self, record: DeformableRecord) -> Iterator[Entries]:
        if not self._cache:
            yield from _entries(record, self._gradient)
            return
        if not self._cached:
            self._cached = [
                (q, index.int(), entries) for q, index, entries in _entries(record, self._gradient)
            ]
        yield from self._cached


def attention_product_from_queries(record: Record, weights: Tensor, gradient: Tensor | None = None) -> Tensor:
    """Return weights @ A of a site: [n, Q] -> [n, S]."""
    return AttentionProduct(record, gradient).from_queries(weights)


def _blocks(record: Record, gradient: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield the map in blocks of rows [q, S], the mean over heads."""
    heads, count, tokens = record.shape
    value = None if gradient is None else record.values()[0, :, :tokens].float()  # [h, S, dv]
    for queries in _slices(count, heads * tokens):
        rows = record.rows(queries)[0].float()  # [h, q, S]
        if gradient is not None and value is not None:
            d_out = _by_head(gradient[0, queries], heads)  # [h, q, dv]
            rows = (d_out @ value.transpose(1, 2) * rows).clamp(min=0)
        yield queries, rows.mean(0)


def _entries(record: DeformableRecord, gradient: Tensor | None) -> Iterator[Entries]:
    """Yield the map as sparse entries: tokens [h, q, 4P] and their part of the mean over heads [h, q, 4P]."""
    heads, count, _ = record.shape
    value = None if gradient is None else record.values()[0].float()  # [h, S, d]
    size = heads * len(record.point_levels) * 4 * (1 if value is None else value.shape[2])
    head = torch.arange(heads)[:, None, None]
    for queries in _slices(count, size):
        index, weights = (part[0] for part in record.footprint(queries))  # [h, q, 4P]
        weights = weights.float()
        if gradient is not None and value is not None:
            d_out = _by_head(gradient[0, queries], heads)  # [h, q, d]
            d_weights = torch.einsum("hqpd,hqd->hqp", value[head, index], d_out)
            weights = (d_weights * weights).clamp(min=0)
        yield queries, index, weights / heads


def _by_head(gradient: Tensor, heads: int) -> Tensor:
    """Return a gradient by head: [q, h * d] -> [h, q, d]."""
    return gradient.float().view(len(gradient), heads, -1).transpose(0, 1)


def _slices(count: int, row: int) -> Iterator[slice]:
    """Yield slices of rows in blocks of at most `BLOCK` elements."""
    step = max(1, BLOCK // row)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
