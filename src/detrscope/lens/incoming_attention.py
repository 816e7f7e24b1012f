"""Incoming attention: columns of the attention matrix, exact, without forming it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Merge, Selection, merge_attention_heads
from detrscope.core.records import (
    DeformableRecord,
    DenseRecord,
    Record,
    part_of_factor,
    record_to_float32,
)
from detrscope.core.trace_data import TraceData
from detrscope.lens.attention_product import BLOCK
from detrscope.lens.maps import map_of_row


@dataclass(frozen=True)
class IncomingAttention:
    """Columns of one site; softmax attention needs each row's log-sum-exp, once for all columns."""

    record: Record

    def of(self, keys: Tensor) -> Tensor:
        """Return the weights of every query at some keys: [k] -> [h, Q, k]."""
        if isinstance(self.record, DeformableRecord):
            return _deformable_columns(self.record, keys)
        queries = slice(self.record.shape[1])
        scores = self.exact.scores(queries, keys)[0]  # [h, Q, k]
        weights = (scores - self.log_sum_exp[..., None]).exp()
        if self.record.gain is None:
            return weights
        return weights * _with_axes(part_of_factor(self.record.gain, queries, keys))

    @cached_property
    def exact(self) -> DenseRecord:
        """The record of softmax attention, in float32."""
        record = record_to_float32(self.record)
        assert isinstance(record, DenseRecord)
        return record

    @cached_property
    def log_sum_exp(self) -> Tensor:
        """Log-sum-exp of each row of scores, computed block by block: [h, Q]."""
        heads, queries, keys = self.record.shape
        step = max(1, BLOCK // (heads * keys))
        blocks = [slice(start, min(start + step, queries)) for start in range(0, queries, step)]
        return torch.cat([self.exact.scores(block)[0].logsumexp(-1) for block in blocks], dim=1)


def incoming_from_tokens(
    trace: TraceData,
    point: tuple[float, float],
    layer: int = -1,
    head: int | None = None,
    merge: Merge = "mean",
    level: int = 0,
    from_level: int | None = None,
) -> AttentionMap:
    """Return how much every encoder token attends to the token at a point.

    Args:
        trace: trace with the record of that layer.
        point: x, y in pixels of the original image.
        layer: encoder layer, the last by default.
        head: head index; None merges the heads.
        merge: how heads are merged.
        level: feature level of the token at `point`; 0 is the finest.
        from_level: feature level of the attending tokens; None shows all levels.

    Raises:
        UserError: a point outside the image, no such layer, head or level, or the site was not recorded.
    """
    site = trace.site(trace.token_kind, layer)
    keys = torch.tensor([trace.token_at(point, level, site)])
    weights = IncomingAttention(trace.record(site)).of(keys)[..., 0]  # [h, S]
    trace.check_index("head", head, len(weights))
    selection = Selection(site, (), head, merge, from_level, point)
    name = f"incoming attention of ({point[0]:g}, {point[1]:g})"
    name += f" of level {level}" if len(trace.levels_at(site)) > 1 else ""
    return map_of_row(trace, merge_attention_heads(weights, head, merge), selection, name)


def incoming_from_queries(
    trace: TraceData,
    point: tuple[float, float],
    layer: int = -1,
    head: int | None = None,
    merge: Merge = "mean",
    level: int | None = None,
) -> Tensor:
    """Return how much each decoder query attends to a point of the image: [Q].

    Args:
        trace: trace with the record of that layer.
        point: x, y in pixels of the original image.
        layer: decoder layer, the last by default.
        head: head index; None merges the heads.
        merge: how heads are merged.
        level: feature level of the token; None adds up the tokens of all levels there.

    Raises:
        UserError: a point outside the image, no such layer, head or level, or the site was not recorded.
    """
    levels = range(len(trace.levels)) if level is None else [level]
    keys = torch.tensor([trace.token_at(point, index) for index in levels])
    weights = IncomingAttention(trace.record(trace.site("decoder.cross", layer))).of(keys).sum(-1)  # [h, Q]
    trace.check_index("head", head, len(weights))
    return merge_attention_heads(weights, head, merge)


def _with_axes(part: Tensor) -> Tensor:
    """Return a tensor that broadcasts to [1, h, Q, S] with all its axes: [h or 1, Q or 1, S or 1]."""
    return part[(None,) * (4 - part.dim())][0]


def _deformable_columns(record: DeformableRecord, keys: Tensor) -> Tensor:
    """Return the bilinear share of every point in a few tokens; points that are not finite have none: [h, Q, k]."""
    points, weights = record.points[0], record.weights[0].float()  # [h, Q, P, 2], [h, Q, P]
    columns = []
    for key in keys.tolist():
        level, index = 0, key
        while index >= record.levels[level].tokens:
            index -= record.levels[level].tokens
            level += 1
        size = record.levels[level]
        row, column = divmod(index, size.width)
        cell = points.new_tensor([column + 0.5, row + 0.5])
        of_level = [i for i, one in enumerate(record.point_levels) if one == level]
        xy = points[:, :, of_level] * points.new_tensor([size.width, size.height])  # [h, Q, p, 2] in tokens
        share = (1 - (xy - cell).abs()).clamp(min=0).nan_to_num().prod(-1)  # [h, Q, p], as in `footprint`
        if record.key_gain is not None and record.key_group is not None:
            group = record.key_group.expand(1, *weights.shape)[0, :, :, of_level]
            share = share * record.key_gain[group, key]
        columns.append((weights[:, :, of_level] * share).sum(-1))
    return torch.stack(columns, dim=-1)
