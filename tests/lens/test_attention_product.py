"""Vectors pushed through attention equal products with the written-out map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord, DenseRecord, Record
from detrscope.core.types import Level
from detrscope.lens import attention_product as flow
from detrscope.lens.attention_product import AttentionProduct, attention_product_from_queries
from detrscope.lens.incoming_attention import IncomingAttention, incoming_from_queries, incoming_from_tokens
from detrscope.ops.deformable import sample
from tests.support.traces import TOKENS, deformable_record, dense_record, traced

both_kinds = pytest.mark.parametrize("make", [dense_record, deformable_record])


@both_kinds
@pytest.mark.parametrize("block", [1, 500, 1 << 22])
@pytest.mark.parametrize("weighted", [False, True])
def test_products_equal_those_of_the_full_matrix(
    make: Callable[[], Record], block: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "BLOCK", block)
    record = make()
    rows = record.rows()[0]  # [h, Q, S]
    gradient = torch.randn(1, 11, 32, generator=torch.Generator().manual_seed(1)) if weighted else None
    if gradient is not None:  # dA of out = A @ V by autograd, then equation 5
        attention = rows.clone().requires_grad_()
        out = (attention @ record.value[0]).transpose(0, 1).flatten(1)  # [Q, h*dv]
        (slope,) = torch.autograd.grad(out, attention, gradient[0])
        rows = (slope * rows).clamp(min=0)
    whole = rows.mean(0)  # [Q, S]
    assert record.shape == (4, 11, TOKENS)
    weights = torch.rand(3, 11, generator=torch.Generator().manual_seed(2))
    values = torch.rand(TOKENS, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(attention_product_from_queries(record, weights, gradient), weights @ whole)
    for cache in (False, True):
        layer = AttentionProduct(record, gradient, cache=cache)
        torch.testing.assert_close(layer.from_tokens(values), whole @ values)
        torch.testing.assert_close(layer.from_queries(weights), weights @ whole)


def test_cached_entries_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    real = DeformableRecord.footprint

    def counted(record: DeformableRecord, queries: slice) -> object:
        found.append(queries)
        return real(record, queries)

    monkeypatch.setattr(DeformableRecord, "footprint", counted)
    layer = AttentionProduct(deformable_record(), cache=True)
    layer.from_tokens(torch.rand(TOKENS, 1))
    once = len(found)
    layer.from_queries(torch.rand(1, 11))
    assert len(found) == once > 0


@both_kinds
def test_the_full_matrix_is_never_formed(
    make: Callable[[int], Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make(200)
    monkeypatch.setattr(flow, "BLOCK", 4 * TOKENS * 8)
    most = 0

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(self: Record, queries: slice) -> object:
            nonlocal most
            most = max(most, queries.stop - queries.start)
            return real(self, queries)

        return call

    monkeypatch.setattr(DenseRecord, "rows", watched(DenseRecord.rows))
    monkeypatch.setattr(DeformableRecord, "footprint", watched(DeformableRecord.footprint))
    attention_product_from_queries(record, torch.rand(1, 200))
    AttentionProduct(record, torch.rand(1, 200, 32), cache=True).from_tokens(torch.rand(TOKENS, 1))
    assert 0 < most <= 16


@both_kinds
def test_columns_equal_those_of_the_full_matrix(
    make: Callable[[], Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make()
    expected = record.rows()[0]
    for block in (1, 1 << 22):
        monkeypatch.setattr("detrscope.lens.incoming_attention.BLOCK", block)
        keys = torch.tensor([0, 5, 17, 34, 35, 40, TOKENS - 1])
        torch.testing.assert_close(IncomingAttention(record).of(keys), expected[..., keys])
    torch.testing.assert_close(IncomingAttention(record).of(torch.arange(TOKENS)).sum(-1), expected.sum(-1))


def test_points_that_are_not_finite_are_in_no_column() -> None:
    record = deformable_record()
    assert isinstance(record, DeformableRecord)
    points = record.points.clone()
    points[0, 0, 0, 0], points[0, 1, 2, 3, 1] = float("nan"), float("inf")
    record = replace(record, points=points)
    found = IncomingAttention(record).of(torch.arange(TOKENS))
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, record.rows()[0])


@pytest.mark.parametrize("axes", [(), (1,), (11, 1), (11, TOKENS), (4, 1, TOKENS), (1, 4, 11, TOKENS)])
def test_columns_accept_a_bias_of_any_shape(axes: tuple[int, ...]) -> None:
    record = replace(dense_record(), bias=torch.randn(axes), gain=torch.rand(axes))
    keys = torch.tensor([3, 40])
    torch.testing.assert_close(IncomingAttention(record).of(keys), record.rows()[0][..., keys])


def test_columns_of_three_maps_equal_those_of_the_full_matrix() -> None:
    levels, probe = (Level(4, 5), Level(2, 3), Level(1, 2)), Probe()
    generator = torch.Generator().manual_seed(0)
    sample(
        torch.randn(1, 28, 2, 8, generator=generator),
        torch.rand(1, 7, 2, 5, 2, generator=generator),
        torch.randn(1, 7, 2, 5, generator=generator),
        levels=levels,
        point_levels=(0, 1, 2, 2, 1),
        reference=torch.rand(1, 7, 3, 2, generator=generator),
        site="a",
        probe=probe,
    )
    record, keys = probe.records["a"], torch.arange(28)
    assert record.rows()[0, ..., 26:].sum() > 1, "points fall on the coarsest map"
    torch.testing.assert_close(IncomingAttention(record).of(keys), record.rows()[0][..., keys])


@pytest.mark.parametrize("variant", ["detr-r18", "sprint-deformable-n"])
def test_incoming_attention_equals_columns(variant: str) -> None:
    trace = traced(variant)
    point = (30.0, 20.0)
    token = trace.token_at(point)
    found = incoming_from_tokens(trace, point)
    whole = trace.record(trace.site("encoder.self")).rows()[0].mean(0)  # [S, S]
    torch.testing.assert_close(torch.cat([p.flatten() for p in found.parts]), whole[:, token])
    assert found.selection.point == point and "incoming attention of (30, 20)" in found.caption
    cross = trace.record(trace.site("decoder.cross", 0)).rows()[0]  # [h, Q, S]
    keys = [trace.token_at(point, level) for level in range(len(trace.levels))]
    expected = cross[2][:, keys].sum(1)
    torch.testing.assert_close(incoming_from_queries(trace, point, layer=0, head=2), expected)
    torch.testing.assert_close(incoming_from_queries(trace, point, 0, 2, level=0), cross[2][:, token])
