"""Attention records: the small exact tensors of one attention site from which any map can be computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.types import Level, Windows

ROWS_AT_ONCE = 1 << 26  # elements of a dense map computed at a time: 256 MB


class _Values:
    """The optional values of a record."""

    value: Tensor | None

    def values(self) -> Tensor:
        """Return the values: [B, h, S, dv].

        Raises:
            UserError: they were not recorded.
        """
        if self.value is None:
            raise UserError("this record has no values; trace with values=True to record them")
        return self.value


@dataclass(frozen=True)
class DenseRecord(_Values):
    """Softmax attention. A row of the map costs one softmax; the map is never stored."""

    query: Tensor  # [B, h, Q, d]
    key: Tensor  # [B, h, S, d]
    value: Tensor | None  # [B, h, S, dv]; None where the probe did not record values
    scale: float  # scores = query @ key^T * scale + bias
    bias: Tensor | None = None  # broadcasts to [B, h, Q, S]: padding, masks and edits
    gain: Tensor | None = None  # broadcasts to [B, h, Q, S]: multiplies the weights after the softmax
    levels: tuple[Level, ...] | None = (
        None  # sizes of the maps of the keys, where they are not those of the trace
    )
    windows: Windows | None = (
        None  # of the one map in `levels`: a row covers its own window, and is 0 elsewhere
    )
    extra: int = (
        0  # of S, last: tokens that lie on no map (class tokens), as many in each window; among Q, too
    )

    def rows(self, queries: Tensor | slice = slice(None)) -> Tensor:
        """Return the attention of some queries over all keys on the maps, every head: [B, h, Q', S].

        Each row sums to 1 unless an edit scaled it or some of it lies on extra tokens.
        """
        if self.extra == 0:
            return self._weights(queries)
        if isinstance(queries, slice):
            queries = slice(*queries.indices(self.shape[1]))
        return self._weights(queries)[..., : -self.extra]

    def scores(self, queries: Tensor | slice, keys: Tensor | slice = slice(None)) -> Tensor:
        """Return the scores of some queries for some keys before the softmax: [B, h, Q', S'], extra tokens included."""
        scores = self.query[:, :, queries] @ self.key[:, :, keys].transpose(-1, -2) * self.scale
        if self.bias is not None:
            scores = scores + part_of_factor(self.bias, queries, keys)
        if self.windows is None:
            return scores
        return scores.masked_fill(self._outside(queries, keys), float("-inf"))

    def _outside(self, queries: Tensor | slice, keys: Tensor | slice) -> Tensor:
        """Return which keys lie in another window than each query: [Q', S'] bool."""
        assert self.windows is not None and self.levels is not None, "windows are of a map"
        device = self.key.device
        each = torch.arange(self.windows.count, device=device)
        extra = each.repeat_interleave(self.extra // self.windows.count)
        window = torch.cat([self.windows.of_tokens(self.levels[0], device), extra])  # [S]
        return window[queries][:, None] != window[keys]

    def _weights(self, queries: Tensor | slice) -> Tensor:
        """Return the attention of some queries over all keys, extra tokens included: [B, h, Q', S]."""
        weights = self.scores(queries).softmax(-1)
        if self.windows is not None:  # an edit may hide a whole window: its queries attend to nothing
            weights = weights.nan_to_num(0.0)
        return weights if self.gain is None else weights * part_of_factor(self.gain, queries)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, queries and tokens of the map, without extra tokens."""
        return self.query.shape[1], self.query.shape[2] - self.extra, self.key.shape[2] - self.extra

    def output(self) -> Tensor:
        """Return the input of the output projection, rebuilt as rows @ value: [B, Q, h * dv].

        Raises:
            UserError: values were not recorded.
        """
        return self.mixed().transpose(1, 2).flatten(2)

    def mixed(self) -> Tensor:
        """Return weights @ values of each head, extra tokens included: [B, h, Q, dv]."""
        return self._weights(slice(None)) @ self.values()


@dataclass(frozen=True)
class DeformableRecord(_Values):
    """Deformable attention: sampling points and weights. Its exact dense map is computed on demand.

    Points are 0..1 of their own level's map, padding included. A point outside the map samples zeros, so a row may sum
    to less than 1; rows are not renormalised, since that is what the layer computed.
    """

    points: Tensor  # [B, h, Q, P, 2] x, y
    weights: Tensor  # [B, h, Q, P] after the softmax over P and after edits
    value: Tensor | None  # [B, h, S, d]; None where the probe did not record values
    point_levels: tuple[int, ...]  # level of each of the P points
    levels: tuple[Level, ...]  # sizes of the maps; S runs over their tokens in order
    reference: Tensor  # [B, Q, L, 2 or 4] reference points (x, y) or boxes_cxcywh
    key_gain: Tensor | None = None  # [G, S] factors on keys for G groups of points: edits on keys
    key_group: Tensor | None = None  # int, broadcasts to [B, h, Q, P]: group of each point

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, queries and tokens of the map."""
        return self.points.shape[1], self.points.shape[2], sum(level.tokens for level in self.levels)

    def footprint(self, queries: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the entries of some queries' dense map: tokens [B, h, Q', 4P] and their weights [B, h, Q', 4P].

        Each weight is split among the four tokens around its point by bilinear interpolation, in float32 at least. A
        token may occur several times; tokens outside the map, and points that are not finite, have weight 0.
        """
        points, weights = (
            x[:, :, queries].to(torch.promote_types(x.dtype, torch.float32))
            for x in (self.points, self.weights)
        )  # [B, h, Q', P, 2], [B, h, Q', P]
        starts = list(accumulate((h * w for h, w in self.levels), initial=0))
        size = points.new_tensor([[self.levels[n].width, self.levels[n].height] for n in self.point_levels])
        size = size.view(len(self.point_levels), 2)
        start = torch.tensor([starts[n] for n in self.point_levels], device=points.device)  # [P]
        position = points * size - 0.5  # [B, h, Q', P, 2] in tokens
        corner = position.floor()
        part = position - corner
        tokens, shares = [], []
        for dx in (0, 1):
            for dy in (0, 1):
                at = corner + points.new_tensor([dx, dy])
                share = (part if dx else 1 - part)[..., 0] * (part if dy else 1 - part)[..., 1]
                inside = ((at >= 0) & (at < size)).all(-1)
                x, y = torch.where(inside[..., None], at, 0).long().unbind(-1)
                tokens.append(start + y * size[:, 0].long() + x)  # [B, h, Q', P]
                shares.append(torch.where(inside, weights * share.to(weights.dtype), 0))
        if self.key_gain is not None and self.key_group is not None:
            group = _rows_of(self.key_group, queries)
            shares = [s * self.key_gain[group, t] for s, t in zip(shares, tokens, strict=True)]
        return torch.cat(tokens, dim=-1), torch.cat(shares, dim=-1)

    def rows(self, queries: Tensor | slice = slice(None)) -> Tensor:
        """Return the dense map of some queries over all tokens, every head: [B, h, Q', S]."""
        tokens, weights = self.footprint(queries)
        rows = weights.new_zeros(*weights.shape[:3], self.shape[2])  # [B, h, Q', S]
        return rows.scatter_add_(3, tokens, weights)

    def splat(self, level: int, queries: Tensor | slice = slice(None)) -> Tensor:
        """Return the dense map of some queries over one level: [B, h, Q', H, W]; the other levels are not computed.

        Args:
            level: index of the level.
            queries: rows.
        """
        level = range(len(self.levels))[level]
        height, width = self.levels[level]
        start = sum(h * w for h, w in self.levels[:level])
        points = [p for p, own in enumerate(self.point_levels) if own == level]
        group = None if self.key_group is None else _rows_of(self.key_group, queries)
        if group is not None and group.shape[-1] > 1:
            group = group[..., points]
        part = replace(
            self,
            points=self.points[:, :, queries][..., points, :],
            weights=self.weights[:, :, queries][..., points],
            point_levels=(level,) * len(points),
            key_group=group,
        )
        tokens, weights = part.footprint()
        image = weights.new_zeros(*weights.shape[:3], height * width)  # [B, h, Q', H * W]
        return image.scatter_add_(3, tokens - start, weights).view(*image.shape[:3], height, width)

    def output(self) -> Tensor:
        """Return the input of the output projection, rebuilt as rows @ value, some rows at a time: [B, Q, h * d].

        Raises:
            UserError: values were not recorded.
        """
        b, h, q, _ = self.weights.shape
        value = self.values()
        dtype = value.dtype
        step = max(1, ROWS_AT_ONCE // (b * h * value.shape[2]))
        wide = torch.promote_types(dtype, torch.promote_types(self.weights.dtype, torch.float32))
        value = value.to(wide)
        blocks = [self.rows(slice(i, i + step)).to(wide) @ value for i in range(0, max(q, 1), step)]
        return torch.cat(blocks, dim=2).transpose(1, 2).flatten(2).to(dtype)


Record = DenseRecord | DeformableRecord


@dataclass(frozen=True)
class Gradient:
    """Gradient of one query's logit of one class with respect to the outputs of the attention sites."""

    query: int
    class_index: int
    sites: Mapping[
        str, Tensor
    ]  # by site: [1, Q or S, h * dv], with respect to the input of the output projection


def record_to_float32(record: Record) -> Record:
    """Return the record with query and key in float32, for a model that ran in fewer bits.

    Rows of deformable records are float32 already.
    """
    if not isinstance(record, DenseRecord):
        return record
    return replace(record, query=record.query.float(), key=record.key.float())


def _rows_of(part: Tensor, queries: Tensor | slice) -> Tensor:
    """Return rows of a tensor that broadcasts to [B, h, Q, S]."""
    if part.dim() < 2 or part.shape[-2] == 1:
        return part
    return part[..., queries, :]


def part_of_factor(factor: Tensor, queries: Tensor | slice, keys: Tensor | slice = slice(None)) -> Tensor:
    """Return some rows and columns of a bias or gain that broadcasts to [B, h, Q, S]."""
    factor = _rows_of(factor, queries)
    return factor if factor.dim() == 0 or factor.shape[-1] == 1 else factor[..., keys]


def mask_to_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bool mask [..., Q, K], True where attention is forbidden, as a bias of 0 and -inf of that shape."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
