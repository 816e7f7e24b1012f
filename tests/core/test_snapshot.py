"""Looks: what is cut down still says what the whole trace says, and a file holds all of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detrscope.core.errors import UserError
from detrscope.core.records import DeformableRecord
from detrscope.core.snapshot import SIDE, ProbeSnapshot, SnapshotStep, compress_features
from detrscope.core.snapshot_file import HEADER, load_snapshot, save_snapshot, snapshot_paths
from detrscope.core.types import Level
from tests.support.equality import same
from tests.support.traces import detector_of, picture


@pytest.mark.parametrize("variant", ["minimal-r50", "detr-r18", "sprint-dense-n", "sprint-deformable-n"])
def test_kept_rows_are_those_of_the_whole_trace(variant: str) -> None:
    trace = detector_of(variant).trace(picture(), sites=["decoder.*.cross"])
    ids = torch.tensor([1, 4])
    look = ProbeSnapshot.of_trace(trace, ids, {})
    assert len(look.attention) == len(trace.sites)
    for layer, site in enumerate(trace.sites):
        whole = trace.record(site).rows()[0].mean(0)  # [Q, S]
        far = isinstance(
            trace.record(site), DeformableRecord
        )  # places in half precision move a little weight
        torch.testing.assert_close(look.rows(layer), whole[ids], rtol=0, atol=2e-2 if far else 1e-3)
        torch.testing.assert_close(look.everyone(layer), whole.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(look.boxes(), trace.boxes_cxcywh[-1, ids])
    torch.testing.assert_close(look.scores(trace.card.scoring), trace.scores()[ids], rtol=0, atol=1e-3)


def test_a_moment_comes_back_to_the_last_bit_and_files_are_in_order(tmp_path: Path) -> None:
    features = ["backbone.layer3.0.conv1"]
    for variant in ("sprint-dense-n", "sprint-deformable-n"):
        trace = detector_of(variant).trace(picture(), features=features)
        look = ProbeSnapshot.of_trace(trace, torch.arange(3), {features[0]: (2, 0)})
        moment = SnapshotStep(7, 0.5, {"a": look, "b b": look})
        path = save_snapshot(moment, tmp_path)
        assert same(load_snapshot(path), moment)
    save_snapshot(SnapshotStep(100, 2.0, {}), tmp_path)
    save_snapshot(SnapshotStep(0, 0.0, {}), tmp_path)
    assert [load_snapshot(path).step for path in snapshot_paths(tmp_path)] == [0, 7, 100]


def test_a_file_that_is_foreign_cut_short_or_newer_is_refused_in_one_line(tmp_path: Path) -> None:
    path = save_snapshot(SnapshotStep(1, 1.0, {}), tmp_path)
    with pytest.raises(UserError, match="step_0000009"):
        load_snapshot(tmp_path / "step_0000009.safetensors")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"step_0000001\.safetensors: a look in format None"):
        load_snapshot(path)
    save_file(load_file(path), path, metadata={HEADER: json.dumps({"version": 99, "moment": {}})})
    with pytest.raises(UserError, match="format 99; this version reads format 1"):
        load_snapshot(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged"):
        load_snapshot(path)


def test_features_are_the_root_mean_square_and_channels_to_half_a_step() -> None:
    maps = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    kept = compress_features(maps, (3, 1))
    array = maps.double().numpy()
    wanted = np.stack([np.sqrt((array**2).mean(0)), array[3], array[1]])
    step = np.ptp(wanted.reshape(3, -1), axis=1)[:, None, None] / 255
    assert (np.abs(kept.values().double().numpy() - wanted) <= 0.5 * step + 1e-5).all()
    assert kept.size == Level(7, 9) and kept.channels == (3, 1)


def test_large_features_are_averaged_down_and_constant_ones_survive() -> None:
    maps = torch.rand(2, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(0))
    kept = compress_features(maps, (1,))
    blocks = maps[1].double().numpy().reshape(SIDE, 2, SIDE, 2).mean((1, 3))
    assert kept.maps.shape == (2, SIDE, SIDE) and kept.size == Level(2 * SIDE, 2 * SIDE)
    assert np.abs(kept.values()[1].numpy() - blocks).max() <= 0.5 * np.ptp(blocks) / 255 + 1e-6
    assert compress_features(maps[:, :20, :128], ()).maps.shape == (1, 10, 64)
    torch.testing.assert_close(
        compress_features(torch.full((2, 3, 3), 4.0), ()).values(), torch.full((1, 3, 3), 4.0)
    )
