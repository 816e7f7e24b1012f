"""Deformable records: the dense map, some of its rows, one level of it, and the layer's output again."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrscope.core import records
from detrscope.core.edits import Gain
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from tests.support.deformable_inputs import SITE, SamplingInputs, footprints, random_inputs


def record_of(of: SamplingInputs, *edits: Gain) -> DeformableRecord:
    probe = Probe(edits=edits)
    of.sample_with(probe)
    record = probe.records[SITE]
    assert isinstance(record, DeformableRecord)
    return record


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_map_times_value_equals_output(seed: int, point_levels: list[int]) -> None:
    of = random_inputs(seed, queries=5, point_levels=tuple(point_levels))
    record, out = record_of(of), of.sample()
    expected = (record.weights.double()[..., None] * footprints(of)).sum(3)
    torch.testing.assert_close(record.rows().double(), expected, rtol=1e-5, atol=1e-6)
    mixed = (record.rows() @ record.value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed, out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(record.output(), out, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_weights_sum_to_one_over_levels_and_points(seed: int, point_levels: list[int]) -> None:
    weights = record_of(random_inputs(seed, queries=5, point_levels=tuple(point_levels))).weights
    assert weights.shape[-1] == len(point_levels)
    torch.testing.assert_close(weights.double().sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))


EDITS = (Gain(SITE, 0.5, keys=(3, 40), queries=(1, 2)), Gain(SITE, 0.0, points=(0,), keys=tuple(range(20))))


@pytest.mark.parametrize("edits", [(), EDITS, EDITS[:1]])
@pytest.mark.parametrize("queries", [slice(None), slice(2, 4), torch.tensor([7, 1])])
def test_splat_equals_rows_of_the_level(edits: tuple[Gain, ...], queries: slice | torch.Tensor) -> None:
    record = record_of(random_inputs(3), *edits)
    rows = record.rows(queries)
    assert torch.equal(rows, record.rows()[:, :, queries])
    parts = rows.split([35, 12, 2], dim=-1)
    for level, part in enumerate(parts):
        image = record.splat(level, queries)
        assert image.shape[3:] == tuple(record.levels[level])
        torch.testing.assert_close(image.flatten(3), part, rtol=1e-6, atol=1e-7)
    assert torch.equal(record.splat(-1, queries), image)


def test_level_without_points_has_zero_map() -> None:
    record = record_of(random_inputs(4, point_levels=(0, 2)))
    assert (record.splat(1) == 0).all()
    assert record.splat(1).shape == (2, 2, 11, 3, 4)


def test_output_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(random_inputs(5))
    whole = record.output()
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 3 * 2 * 2 * 49)
    torch.testing.assert_close(record.output(), whole)


def test_points_outside_lower_the_row_sum() -> None:
    of = random_inputs(6, queries=3, heads=1, images=1, levels=((4, 4),), point_levels=(0, 0))
    of.points[:] = 0.5
    of.points[0, 1, 0, 0] = 2.0
    of.points[0, 2, 0, 0] = math.nan
    record = record_of(of)
    second = record.weights[0, 0, :, 1]
    expected = torch.stack([torch.tensor(1.0), second[1], second[2]])
    torch.testing.assert_close(record.rows().sum(-1)[0, 0], expected)


def test_maps_are_float32_for_half_precision_records() -> None:
    record = record_of(random_inputs(7))
    half = replace(
        record, points=record.points.half(), weights=record.weights.half(), value=record.value.half()
    )
    assert half.rows().dtype == torch.float32
    torch.testing.assert_close(half.rows(), record.rows(), rtol=0.05, atol=0.02)
    assert half.output().dtype == torch.float16


def test_records_without_queries() -> None:
    record = record_of(random_inputs(8, queries=0))
    assert record.rows().shape == (2, 2, 0, 49)
    assert record.output().shape == (2, 0, 16)
