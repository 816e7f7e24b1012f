"""Training, watched: looks are kept, measured and gone on with; looking changes nothing of what is learned."""

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
from detrscope.recording.recorder import load_recording
from detrscope.trace_interface import Trace
from detrscope.training.run_folder import ATTENTION_CSV, SNAPSHOTS, TRACES, RunFolder
from detrscope.views.options import ViewOptions
from tests.support.equality import same
from tests.support.recorded_run import SOURCE, TINY, watched_run


@pytest.fixture(autouse=True)
def log_reaches_pytest(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("INFO", log.name)  # whatever a test before this one has set


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    watched_run(folder, "seen")
    watched_run(folder, "blind", train__recording__count=0)
    return folder


def same_training(one: Path, other: Path) -> None:
    """Weights, optimiser, random states and every loss, to the last bit."""
    first, second = RunFolder(one).load_state(), RunFolder(other).load_state()
    assert first is not None and second is not None
    for part in ("model", "ema"):
        for key, value in (first[part] or {}).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, second[part][key]), f"{part} {key}"
    assert same(first["random"], second["random"]), "looking drew random numbers"
    for row, again in zip(RunFolder(one).rows(), RunFolder(other).rows(), strict=True):
        for key in (k for k in row if k.startswith(("train/", "val/", "lr/"))):
            assert row[key] == again[key], key


def test_looking_changes_nothing_of_what_is_learned(runs: Path) -> None:
    assert (runs / "seen" / SNAPSHOTS).exists() and not (runs / "blind" / SNAPSHOTS).exists()
    same_training(runs / "seen", runs / "blind")


def test_nor_where_the_weights_in_training_are_looked_at_with_norms_that_are_frozen(tmp_path: Path) -> None:
    """Without an average the live model is put into evaluation mode and back, module by module."""
    settings = {"train__ema__enabled": False, "train__lr_backbone": 0, "train__muon__enabled": False}
    one = watched_run(tmp_path, "seen", train__recording__every=1, **settings)
    other = watched_run(tmp_path, "blind", train__recording__count=0, **settings)
    same_training(one, other)


def test_looks_begin_before_training_and_are_taken_each_epoch(runs: Path) -> None:
    watched = load_recording(runs / "seen")
    assert [(m.step, m.epoch) for m in watched.moments] == [(0, 0.0), (2, 1.0), (4, 2.0)]
    assert len(watched.images) == 2
    for name, trace in watched.images.items():
        assert trace.image.shape == (3, 64, 64) and trace.targets is not None and len(trace.targets.labels)
        assert Trace.load(runs / "seen" / SNAPSHOTS / f"{name}.trace").source.endswith(f"{name}.png")
        first, last = watched.looks(name)[0], watched.looks(name)[-1]
        assert len(first.attention) == 3 and first.rows().shape == (10, 16)
        torch.testing.assert_close(first.rows().sum(1), torch.ones(10), rtol=0, atol=5e-3)
        assert not torch.equal(first.boxes_cxcywh, last.boxes_cxcywh)
        assert first.features.keys() == last.features.keys() and "backbone.layer3.1.conv2" in first.features
        for site, maps in first.features.items():
            assert maps.channels == last.features[site].channels, "the same channels at all moments"
            assert len(maps.channels) == 2 and maps.maps.dtype == torch.uint8


def test_the_last_look_is_what_the_saved_model_sees(runs: Path) -> None:
    watched = load_recording(runs / "seen")
    detector = ds.load(runs / "seen" / "last.safetensors", device="cpu")
    for name, trace in watched.images.items():
        look = watched.looks(name)[-1]
        whole = detector.trace(trace.source)
        torch.testing.assert_close(look.boxes(), whole.boxes_cxcywh[-1, look.query_ids], rtol=0, atol=1e-4)
        rows = whole.record("decoder.2.cross").rows()[0].mean(0)
        torch.testing.assert_close(look.rows(), rows[look.query_ids], rtol=0, atol=2e-3)


def test_attention_on_parts_is_kept_beside_the_metrics_the_same_in_both_files(runs: Path) -> None:
    rows = RunFolder(runs / "seen").attention_rows()
    assert [(row["step"], row["epoch"]) for row in rows] == [(0, 0.0), (2, 1.0), (4, 2.0)]
    with (runs / "seen" / ATTENTION_CSV).open(newline="") as file:
        table = list(csv.DictReader(file))
    for row, line in zip(rows, table, strict=True):
        assert {k: float(v) for k, v in line.items()} == pytest.approx(row)
        assert 0 < row["mass/object"] < 1 and 0 < row["area/object"] < 1 and "mass/muzzle" in row
        assert row["mass/object"] == pytest.approx(
            1 - row["mass/background"], abs=0.02 + row.get("mass/other objects", 0)
        )
        assert row["area/ears"] == rows[0]["area/ears"], "the pictures stay the same"


def test_resume_keeps_looking_and_equals_the_uninterrupted_run(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(runs / "cache"))

    class Stopped(Exception):
        pass

    real = RunFolder.add_attention_row

    def stop_after_the_last(folder: RunFolder, row: dict[str, Any]) -> None:
        real(folder, row)
        if row["step"] == 4:
            raise Stopped  # the look and its row are there, the checkpoint is from before

    monkeypatch.setattr(RunFolder, "add_attention_row", stop_after_the_last)
    with pytest.raises(Stopped):
        train(preset="drawn-dogs", data=SOURCE, out=tmp_path / "run", overrides=TINY)
    assert [row["step"] for row in RunFolder(tmp_path / "run").attention_rows()] == [0, 2, 4]
    monkeypatch.setattr(RunFolder, "add_attention_row", real)
    caplog.clear()
    train(out=tmp_path / "run", resume=True)
    assert "resuming after epoch 1, step 2" in caplog.text and "2 probe images x 1 looks" in caplog.text
    whole, again = load_recording(runs / "seen"), load_recording(tmp_path / "run")
    assert same(list(again.moments), list(whole.moments))
    assert again.attention == whole.attention


def test_the_size_is_told_before_training_and_is_what_the_files_have(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = watched_run(tmp_path, "run")
    (line,) = [r.getMessage() for r in caplog.records if "probe images x" in r.getMessage()]
    first_epoch = next(i for i, r in enumerate(caplog.records) if "epoch 1/2" in r.getMessage())
    assert "2 probe images x 3 looks" in line and line in [
        r.getMessage() for r in caplog.records[:first_epoch]
    ]
    told = float(line.split("about ")[1].split(" MB")[0])
    there = sum(path.stat().st_size for path in (run / SNAPSHOTS).glob("step_*")) / 1e6
    assert there == pytest.approx(told, rel=0.02)


def test_whole_traces_are_kept_of_some_looks_for_every_view(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = watched_run(tmp_path, "run", train__recording__every=1, train__recording__traces=3)
    kept = sorted((run / TRACES).iterdir())
    names = load_recording(run).images
    assert [path.name for path in kept] == [f"{n}-step_000000{s}.trace" for n in names for s in (0, 3, 4)]
    same_training(run, runs / "blind")
    (line,) = [r.getMessage() for r in caplog.records if "whole traces" in r.getMessage()]
    assert line.startswith("3 of them with whole traces: about ")
    told = float(line.split("about ")[1].split(" MB")[0])
    assert sum(path.stat().st_size for path in kept) / 1e6 == pytest.approx(told, rel=0.05)

    first, last = Trace.load(kept[0]), Trace.load(kept[2])
    assert first.sites == first.model_sites, "every site"
    assert last.notes == {"epoch": 2.0, "step": 4} and last.original is not None
    image = last.original
    again = ds.load(run / "last.safetensors").trace(image)
    torch.testing.assert_close(last.logits, again.logits, rtol=1e-4, atol=1e-4)
    (seen,) = ds.see(kept[0], against=kept[2], views=["compare"], options=ViewOptions(queries=(0,)))
    caption = seen.figures["compare"].caption
    assert "epoch 0.0, step 0" in caption and "epoch 2.0, step 4" in caption
    assert "overlaps most" in caption, "the model picks its queries anew"


def test_a_new_run_in_the_folder_forgets_the_looks_of_the_old_one(tmp_path: Path) -> None:
    run = watched_run(tmp_path, "run", train__recording__every=1, train__recording__traces=1)
    assert len(load_recording(run).moments) == 5 and len(list((run / TRACES).iterdir())) == 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
        train(
            preset="drawn-dogs", data=SOURCE, out=run, overrides={**TINY, "train.epochs": 1}, overwrite=True
        )
    watched = load_recording(run)
    assert [m.step for m in watched.moments] == [0, 2] and len(watched.attention) == 2
    assert not list((run / TRACES).iterdir())


def test_deformable_attention_is_watched_like_dense(tmp_path: Path) -> None:
    run = watched_run(tmp_path, "run", model__variant="sprint-deformable-n", train__recording__queries=4)
    watched = load_recording(run)
    look = next(iter(watched.moments[-1].looks.values()))
    assert look.rows().shape == (4, 8 * 8 + 4 * 4) and len(look.query_ids) == 4
    assert float(look.rows().sum(1).min()) > 0.2 and float(look.rows().sum()) <= 4.01
    assert watched.attention[-1]["mass/object"] > 0


def test_a_look_without_the_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no looks; train with --probe-images"):
        load_recording(tmp_path)
    (tmp_path / SNAPSHOTS).mkdir()
    (tmp_path / SNAPSHOTS / "step_0000050.npz").touch()
    with pytest.raises(UserError, match=r"those of an older one are \.npz"):
        load_recording(tmp_path)
