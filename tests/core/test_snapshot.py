"""Snapshots: a reduced trace has the attention and predictions of the full one, and a file holds all of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detrscope.core.errors import UserError
from detrscope.core.records import DeformableRecord
from detrscope.core.snapshot import SIDE, FeatureMaps, ProbeSnapshot, SnapshotStep, snapshot_record
from detrscope.core.snapshot_file import HEADER, load_snapshot, save_snapshot, snapshot_paths
from detrscope.core.trace_file import load_trace, save_trace
from detrscope.core.types import Level
from detrscope.lens.maps import map_of_cross_attention
from tests.support.equality import same
from tests.support.traces import detector_of, picture


@pytest.mark.parametrize("variant", ["minimal-r50", "detr-r18", "sprint-dense-n", "sprint-deformable-n"])
def test_stored_rows_are_those_of_the_full_trace(variant: str) -> None:
    trace = detector_of(variant).trace(picture(), sites=["decoder.*.cross"])
    ids = torch.tensor([1, 4])
    snapshot = ProbeSnapshot.of_trace(trace, ids, {})
    few = snapshot.trace(trace)
    assert few.sites == trace.sites and few.queries == 2
    for site in trace.sites:
        whole = trace.record(site).rows()[0].mean(0)  # [Q, S]
        rows = few.record(site).rows()[0].mean(0)
        # sampling points in float16 move a little weight
        tolerance = 2e-2 if isinstance(trace.record(site), DeformableRecord) else 1e-3
        torch.testing.assert_close(rows, whole[ids], rtol=0, atol=tolerance)
        torch.testing.assert_close(snapshot.mean_rows[site].float(), whole.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(few.boxes_cxcywh[-1], trace.boxes_cxcywh[-1, ids])
    torch.testing.assert_close(few.scores(), trace.scores()[ids], rtol=0, atol=1e-3)


def test_a_record_of_rows_has_these_rows_to_float16() -> None:
    rows = torch.rand(3, 50, generator=torch.Generator().manual_seed(0)).softmax(-1)
    record = snapshot_record(rows)
    torch.testing.assert_close(record.rows()[0, 0], rows, rtol=1e-3, atol=0)
    torch.testing.assert_close(record.rows(torch.tensor([2]))[0, 0], rows[2:], rtol=1e-3, atol=0)
    one_hot = torch.nn.functional.one_hot(torch.tensor([7]), 70_000).float()
    assert snapshot_record(one_hot).rows().isfinite().all(), "beyond float16 the gain is cut"


@pytest.mark.parametrize("variant", ["sprint-dense-n", "sprint-deformable-n"])
def test_a_snapshot_is_a_trace_for_maps_and_files(variant: str, tmp_path: Path) -> None:
    full = detector_of(variant).trace(picture())
    ids = torch.tensor([0, 3])
    few = ProbeSnapshot.of_trace(full, ids, {}).trace(full)
    wanted = map_of_cross_attention(full, 3).values
    torch.testing.assert_close(map_of_cross_attention(few, 1).values, wanted, rtol=0, atol=2e-2)
    again = load_trace(save_trace(few, tmp_path / "few.trace"))
    assert again.queries == 2
    for site in few.sites:
        torch.testing.assert_close(again.record(site).rows(), few.record(site).rows())


def test_files_are_bit_equal_and_in_order(tmp_path: Path) -> None:
    features = ["backbone.layer3.0.conv1"]
    for variant in ("sprint-dense-n", "sprint-deformable-n"):
        trace = detector_of(variant).trace(picture(), features=features)
        snapshot = ProbeSnapshot.of_trace(trace, torch.arange(3), {features[0]: (2, 0)})
        step = SnapshotStep(7, 0.5, {"a": snapshot, "b b": snapshot})
        path = save_snapshot(step, tmp_path)
        assert same(load_snapshot(path), step)
    save_snapshot(SnapshotStep(100, 2.0, {}), tmp_path)
    save_snapshot(SnapshotStep(0, 0.0, {}), tmp_path)
    assert [load_snapshot(path).step for path in snapshot_paths(tmp_path)] == [0, 7, 100]


def test_foreign_truncated_and_newer_files_are_refused(tmp_path: Path) -> None:
    path = save_snapshot(SnapshotStep(1, 1.0, {}), tmp_path)
    with pytest.raises(UserError, match="step_0000009"):
        load_snapshot(tmp_path / "step_0000009.safetensors")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"step_0000001\.safetensors: a snapshot in format None"):
        load_snapshot(path)
    save_file(load_file(path), path, metadata={HEADER: json.dumps({"version": 99, "snapshot": {}})})
    with pytest.raises(UserError, match="format 99; this version reads format 1"):
        load_snapshot(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged"):
        load_snapshot(path)


def test_features_are_right_to_half_a_step() -> None:
    maps = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    stored = FeatureMaps.of(maps, (3, 1))
    array = maps.double().numpy()
    wanted = np.stack([np.sqrt((array**2).mean(0)), array[3], array[1]])
    step = np.ptp(wanted.reshape(3, -1), axis=1)[:, None, None] / 255
    assert (np.abs(stored.values().double().numpy() - wanted) <= 0.5 * step + 1e-5).all()
    assert stored.size == Level(7, 9) and stored.channels == (3, 1)


def test_large_features_are_averaged_and_constant_ones_stay() -> None:
    maps = torch.rand(2, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(0))
    stored = FeatureMaps.of(maps, (1,))
    blocks = maps[1].double().numpy().reshape(SIDE, 2, SIDE, 2).mean((1, 3))
    assert stored.maps.shape == (2, SIDE, SIDE) and stored.size == Level(2 * SIDE, 2 * SIDE)
    assert np.abs(stored.values()[1].numpy() - blocks).max() <= 0.5 * np.ptp(blocks) / 255 + 1e-6
    assert FeatureMaps.of(maps[:, :20, :128], ()).maps.shape == (1, 10, 64)
    torch.testing.assert_close(
        FeatureMaps.of(torch.full((2, 3, 3), 4.0), ()).values(), torch.full((1, 3, 3), 4.0)
    )
