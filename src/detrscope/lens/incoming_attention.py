"""Who looks at a place: columns of attention, exact, without the map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Merge, Selection, merged_heads
from detrscope.core.records import DeformableRecord, DenseRecord, Record
from detrscope.core.trace_data import TraceData
from detrscope.lens.attention_product import BLOCK
from detrscope.lens.maps import map_of_row


@dataclass(frozen=True)
class IncomingAttention:
    """The columns of one site. Of softmax attention each row's log-sum-exp is needed, once for all columns."""

    record: Record

    def of(self, keys: Tensor) -> Tensor:
        """How much every query looks at some keys: [k] -> [h, Q, k]."""
        if isinstance(self.record, DeformableRecord):
            return _deformable_columns(self.record, keys)
        query, key = self.record.query[0].float(), self.record.key[0].float()
        scores = query @ key[:, keys].transpose(-1, -2) * self.record.scale  # [h, Q, k]
        if self.record.bias is not None:
            scores = scores + _columns_of(self.record.bias, keys)
        weights = (scores - self.log_sum_exp[..., None]).exp()
        return weights if self.record.gain is None else weights * _columns_of(self.record.gain, keys)

    @cached_property
    def log_sum_exp(self) -> Tensor:
        """Of each row's scores, row block by row block: [h, Q]."""
        assert isinstance(self.record, DenseRecord)
        query, key = self.record.query[0].float(), self.record.key[0].float()
        step = max(1, BLOCK // (key.shape[0] * key.shape[1]))
        parts = []
        for start in range(0, query.shape[1], step):
            rows = slice(start, start + step)
            scores = query[:, rows] @ key.transpose(-1, -2) * self.record.scale  # [h, q, S]
            if self.record.bias is not None:
                bias = _with_axes(self.record.bias)  # [h or 1, Q or 1, S]
                scores = scores + (bias if bias.shape[1] == 1 else bias[:, rows])
            parts.append(scores.logsumexp(-1))
        return torch.cat(parts, dim=1)


def incoming_from_tokens(
    trace: TraceData,
    point: tuple[float, float],
    layer: int = -1,
    head: int | None = None,
    merge: Merge = "mean",
    level: int = 0,
    from_level: int | None = None,
) -> AttentionMap:
    """Which places of the image look at a place of it, in the encoder.

    Args:
        trace: with the record of that layer.
        point: x, y of the original: how much every token looks at the token there.
        layer: encoder layer, the last by default.
        head: one head; None merges them.
        merge: how heads are merged.
        level: of which map the token at `point` is; 0 is the finest.
        from_level: show those who look from one map only; None shows all.

    Raises:
        UserError: a point outside, no such layer, head or level, or the site was not recorded.
    """
    site = trace.site("encoder.self", layer)
    found = IncomingAttention(trace.record(site)).of(torch.tensor([trace.token_at(point, level)]))[
        ..., 0
    ]  # [h, S]
    trace.check_index("head", head, len(found))
    selection = Selection(site, (), head, merge, from_level, point)
    row = merged_heads(found, head, merge)
    who = f"who looks at ({point[0]:g}, {point[1]:g})" + (
        f" of level {level}" if len(trace.levels) > 1 else ""
    )
    return map_of_row(trace, row, selection, who)


def incoming_from_queries(
    trace: TraceData,
    point: tuple[float, float],
    layer: int = -1,
    head: int | None = None,
    merge: Merge = "mean",
    level: int | None = None,
) -> Tensor:
    """How much each of the decoder's queries looks at a place of the image: [Q].

    Args:
        trace: with the record of that layer.
        point: x, y of the original.
        layer: decoder layer, the last by default.
        head: one head; None merges them.
        merge: how heads are merged.
        level: of which map the token is; None adds up the tokens of all maps there.

    Raises:
        UserError: a point outside, no such layer, head or level, or the site was not recorded.
    """
    levels = range(len(trace.levels)) if level is None else [level]
    keys = torch.tensor([trace.token_at(point, one) for one in levels])
    found = IncomingAttention(trace.record(trace.site("decoder.cross", layer))).of(keys).sum(-1)  # [h, Q]
    trace.check_index("head", head, len(found))
    return merged_heads(found, head, merge)


def _columns_of(part: Tensor, keys: Tensor) -> Tensor:
    """Columns of what broadcasts to [1, h, Q, S]."""
    part = _with_axes(part)
    return part if part.shape[-1] == 1 else part[..., keys]


def _with_axes(part: Tensor) -> Tensor:
    """What broadcasts to [1, h, Q, S] with its axes written out: [h or 1, Q or 1, S or 1]."""
    return part[(None,) * (4 - part.dim())][0]


def _deformable_columns(record: DeformableRecord, keys: Tensor) -> Tensor:
    """The bilinear share of every point in a few tokens, of one that is not finite none: [h, Q, k]."""
    points, weights = record.points[0], record.weights[0].float()  # [h, Q, P, 2], [h, Q, P]
    columns = []
    for key in keys.tolist():
        level, place_in_level = 0, key
        while place_in_level >= record.levels[level].height * record.levels[level].width:
            place_in_level -= record.levels[level].height * record.levels[level].width
            level += 1
        size = record.levels[level]
        row, column = divmod(place_in_level, size.width)
        cell = points.new_tensor([column + 0.5, row + 0.5])
        here = [i for i, of in enumerate(record.point_levels) if of == level]
        place = points[:, :, here] * points.new_tensor([size.width, size.height])  # [h, Q, p, 2] in tokens
        share = (
            (1 - (place - cell).abs()).clamp(min=0).nan_to_num().prod(-1)
        )  # [h, Q, p]; as `footprint` has it
        if record.key_gain is not None and record.key_group is not None:
            group = record.key_group.expand(1, *weights.shape)[0, :, :, here]
            share = share * record.key_gain[group, key]
        columns.append((weights[:, :, here] * share).sum(-1))
    return torch.stack(columns, dim=-1)
