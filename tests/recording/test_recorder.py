"""Recording: snapshots are stored, measured and resumed, and leave training bit-equal."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import detrscope as ds
from detrscope.commands.train import train
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.recording.recorder import load_recording
from detrscope.trace_interface import Trace
from detrscope.training.run_folder import ATTENTION_CSV, SNAPSHOTS, TRACES, RunFolder
from detrscope.views.options import ViewOptions
from tests.support.equality import same
from tests.support.recorded_run import SOURCE, TINY, record_run


@pytest.fixture(autouse=True)
def log_reaches_pytest(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("INFO", log.name)  # whatever a test before this one has set


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    record_run(folder, "recorded")
    record_run(folder, "plain", train__recording__count=0)
    return folder


def mean_rows(trace: TraceData) -> torch.Tensor:
    """Attention of every query in the last layer, mean over heads: [Q, S]."""
    return trace.record(trace.site("decoder.cross")).rows()[0].mean(0)


def same_training(one: Path, other: Path) -> None:
    """Weights, optimiser, random states and every loss, to the last bit."""
    first, second = RunFolder(one).load_state(), RunFolder(other).load_state()
    assert first is not None and second is not None
    for part in ("model", "ema"):
        for key, value in (first[part] or {}).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, second[part][key]), f"{part} {key}"
    assert same(first["random"], second["random"]), "recording drew random numbers"
    for row, again in zip(RunFolder(one).rows(), RunFolder(other).rows(), strict=True):
        for key in (k for k in row if k.startswith(("train/", "val/", "lr/"))):
            assert row[key] == again[key], key


def test_recording_leaves_training_bit_equal(runs: Path) -> None:
    assert (runs / "recorded" / SNAPSHOTS).exists() and not (runs / "plain" / SNAPSHOTS).exists()
    same_training(runs / "recorded", runs / "plain")


def test_recording_the_live_model_leaves_training_bit_equal(tmp_path: Path) -> None:
    """Without EMA the live model, with frozen norms, is put into evaluation mode and back, module by module."""
    settings = {"train__ema__enabled": False, "train__lr_backbone": 0, "train__muon__enabled": False}
    one = record_run(tmp_path, "recorded", train__recording__every=1, **settings)
    other = record_run(tmp_path, "plain", train__recording__count=0, **settings)
    same_training(one, other)


def test_snapshots_are_taken_before_training_and_each_epoch(runs: Path) -> None:
    recording = load_recording(runs / "recorded")
    assert [(s.step, s.epoch) for s in recording.steps] == [(0, 0.0), (2, 1.0), (4, 2.0)]
    assert len(recording.images) == 2
    for name, trace in recording.images.items():
        assert trace.image.shape == (3, 64, 64) and trace.targets is not None and len(trace.targets.labels)
        assert Trace.load(runs / "recorded" / SNAPSHOTS / f"{name}.trace").source.endswith(f"{name}.png")
        first, last = recording.snapshots(name)[0], recording.snapshots(name)[-1]
        rows = mean_rows(first.trace(trace))
        assert len(first.records) == 3 and rows.shape == (10, 16)
        torch.testing.assert_close(rows.sum(1), torch.ones(10), rtol=0, atol=5e-3)
        assert not torch.equal(first.boxes_cxcywh, last.boxes_cxcywh)
        assert first.features.keys() == last.features.keys() and "backbone.layer3.1.conv2" in first.features
        for site, maps in first.features.items():
            assert maps.channels == last.features[site].channels, "the same channels in all snapshots"
            assert len(maps.channels) == 2 and maps.maps.dtype == torch.uint8


def test_last_snapshot_equals_a_trace_of_the_saved_model(runs: Path) -> None:
    recording = load_recording(runs / "recorded")
    detector = ds.load(runs / "recorded" / "last.safetensors", device="cpu")
    for name, trace in recording.images.items():
        snapshot = recording.snapshots(name)[-1]
        queries, few = snapshot.query_ids, snapshot.trace(trace)
        whole = detector.trace(trace.source)
        torch.testing.assert_close(few.boxes_cxcywh[-1], whole.boxes_cxcywh[-1, queries], rtol=0, atol=1e-4)
        torch.testing.assert_close(mean_rows(few), mean_rows(whole)[queries], rtol=0, atol=2e-3)


def test_attention_on_parts_is_the_same_in_csv_and_jsonl(runs: Path) -> None:
    rows = RunFolder(runs / "recorded").attention_rows()
    assert [(row["step"], row["epoch"]) for row in rows] == [(0, 0.0), (2, 1.0), (4, 2.0)]
    with (runs / "recorded" / ATTENTION_CSV).open(newline="") as file:
        table = list(csv.DictReader(file))
    for row, line in zip(rows, table, strict=True):
        assert {k: float(v) for k, v in line.items()} == pytest.approx(row)
        assert 0 < row["mass/object"] < 1 and 0 < row["area/object"] < 1 and "mass/muzzle" in row
        assert row["mass/object"] == pytest.approx(
            1 - row["mass/background"], abs=0.02 + row.get("mass/other objects", 0)
        )
        assert row["area/ears"] == rows[0]["area/ears"], "the images stay the same"


def test_resumed_recording_equals_the_uninterrupted_run(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(runs / "cache"))

    class Stopped(Exception):
        pass

    real = RunFolder.add_attention_row

    def stop_after_the_last(folder: RunFolder, row: dict[str, Any]) -> None:
        real(folder, row)
        if row["step"] == 4:
            raise Stopped  # the snapshot and its row are written, the checkpoint is older

    monkeypatch.setattr(RunFolder, "add_attention_row", stop_after_the_last)
    with pytest.raises(Stopped):
        train(preset="drawn-dogs", data=SOURCE, out=tmp_path / "run", overrides=TINY)
    assert [row["step"] for row in RunFolder(tmp_path / "run").attention_rows()] == [0, 2, 4]
    monkeypatch.setattr(RunFolder, "add_attention_row", real)
    caplog.clear()
    train(out=tmp_path / "run", resume=True)
    assert "resuming after epoch 1, step 2" in caplog.text and "2 probe images x 1 snapshots" in caplog.text
    whole, again = load_recording(runs / "recorded"), load_recording(tmp_path / "run")
    assert same(list(again.steps), list(whole.steps))
    assert again.attention == whole.attention


def test_logged_size_is_the_size_of_the_files(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = record_run(tmp_path, "run")
    (line,) = [r.getMessage() for r in caplog.records if "probe images x" in r.getMessage()]
    first_epoch = next(i for i, r in enumerate(caplog.records) if "epoch 1/2" in r.getMessage())
    assert "2 probe images x 3 snapshots" in line and line in [
        r.getMessage() for r in caplog.records[:first_epoch]
    ]
    logged = float(line.split("about ")[1].split(" MB")[0])
    size = sum(path.stat().st_size for path in (run / SNAPSHOTS).glob("step_*")) / 1e6
    assert size == pytest.approx(logged, rel=0.02)


def test_full_traces_of_some_snapshots_serve_every_view(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = record_run(tmp_path, "run", train__recording__every=1, train__recording__traces=3)
    traces = sorted((run / TRACES).iterdir())
    names = load_recording(run).images
    assert [path.name for path in traces] == [f"{n}-step_000000{s}.trace" for n in names for s in (0, 3, 4)]
    same_training(run, runs / "plain")
    (line,) = [r.getMessage() for r in caplog.records if "full traces" in r.getMessage()]
    assert line.startswith("3 of them with full traces: about ")
    logged = float(line.split("about ")[1].split(" MB")[0])
    assert sum(path.stat().st_size for path in traces) / 1e6 == pytest.approx(logged, rel=0.05)

    first, last = Trace.load(traces[0]), Trace.load(traces[2])
    assert first.sites == first.model_sites, "every site"
    assert last.notes == {"epoch": 2.0, "step": 4} and last.original is not None
    image = last.original
    again = ds.load(run / "last.safetensors").trace(image)
    torch.testing.assert_close(last.logits, again.logits, rtol=1e-4, atol=1e-4)
    (result,) = ds.see(traces[0], against=traces[2], views=["compare"], options=ViewOptions(queries=(0,)))
    caption = result.figures["compare"].caption
    assert "epoch 0.0, step 0" in caption and "epoch 2.0, step 4" in caption
    assert "overlaps most" in caption, "the model picks its queries anew"


def test_a_new_run_removes_the_snapshots_of_the_old_one(tmp_path: Path) -> None:
    run = record_run(tmp_path, "run", train__recording__every=1, train__recording__traces=1)
    assert len(load_recording(run).steps) == 5 and len(list((run / TRACES).iterdir())) == 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
        train(
            preset="drawn-dogs", data=SOURCE, out=run, overrides={**TINY, "train.epochs": 1}, overwrite=True
        )
    recording = load_recording(run)
    assert [s.step for s in recording.steps] == [0, 2] and len(recording.attention) == 2
    assert not list((run / TRACES).iterdir())


def test_deformable_attention_is_recorded_like_dense(tmp_path: Path) -> None:
    run = record_run(tmp_path, "run", model__variant="sprint-deformable-n", train__recording__queries=4)
    recording = load_recording(run)
    name = next(iter(recording.images))
    rows = mean_rows(recording.traces(name)[-1])
    assert rows.shape == (4, 8 * 8 + 4 * 4) and len(recording.snapshots(name)[-1].query_ids) == 4
    assert float(rows.sum(1).min()) > 0.2 and float(rows.sum()) <= 4.01
    assert recording.attention[-1]["mass/object"] > 0


def test_a_run_without_snapshots_says_how_to_record_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no snapshots; train with probe_images"):
        load_recording(tmp_path)
    with pytest.raises(UserError, match="no such folder; expected a run folder"):
        load_recording(tmp_path / "nowhere")
