"""Files written by earlier versions still load: one of each format is kept here and never rewritten.

`run/` and `photo.trace` were written by 0.1.0. When a format changes, keep these and add a newer one beside them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import detrscope as ds
from detrscope.core.model_card import ModelCard
from detrscope.core.threshold_choice import find_thresholds
from detrscope.recording.recorder import load_recording
from tests.support.recorded_run import SOURCE

HERE = Path(__file__).parent
IMAGE = (torch.arange(3 * 48 * 64) % 251).to(torch.uint8).view(3, 48, 64)


def test_checkpoint_of_0_1_0_predicts_the_same() -> None:
    stored = json.loads((HERE / "detections.json").read_text())
    detections = ds.load(HERE / "run" / "last.safetensors", precision="fp32").detect(IMAGE, threshold=0.0)
    assert len(detections.scores) == len(stored["scores"])
    torch.testing.assert_close(detections.scores, torch.tensor(stored["scores"]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        detections.boxes_xyxy, torch.tensor(stored["boxes_xyxy"]), atol=1e-2, rtol=1e-4
    )


def test_card_with_thresholds_is_read() -> None:
    tree = json.loads((HERE / "card_with_thresholds.json").read_text())
    table = ModelCard.from_json(tree).thresholds
    assert table is not None and (table.source, table.images) == ("dogs val", 60)
    found = find_thresholds("precision=0.9,per-class", table, ModelCard.from_json(tree).classes)
    assert found.values == (0.5,)


def test_trace_of_0_1_0_gives_its_maps() -> None:
    trace = ds.Trace.load(HERE / "photo.trace")
    assert len(trace.sites) == 5 and trace.relevance(0).mass > 0
    assert [edit.describe() for edit in trace.edits]
    assert trace.cross_attention(0).mass == pytest.approx(1, abs=1e-5)


def test_recording_of_0_1_0_is_read() -> None:
    recording = load_recording(HERE / "run")
    assert [step.step for step in recording.steps] == [0, 2] and len(recording.metrics) == 1


def test_run_of_0_1_0_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(HERE / "run", tmp_path / "run")
    outcome = ds.train(data=SOURCE, out=tmp_path / "run", resume=True, overrides={"train.epochs": 2})
    assert outcome.epochs == 2 and outcome.steps == 4
