"""`train --dry-run`: what a run will be like, and whether one batch can be learned by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from detrscope.cli.app import app
from detrscope.commands.train import train_dry_run
from detrscope.core.errors import UserError
from detrscope.training import dry_run as module
from tests.support.recorded_run import SOURCE, TINY

QUICK = {**{key: value for key, value in TINY.items() if "recording" not in key}, "train.epochs": 3}

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_batch_is_learned_and_the_run_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "OVERFIT_STEPS", 60)
    result = train_dry_run(preset="drawn-dogs", data=SOURCE, overrides=QUICK)
    assert (result.steps, result.steps_per_epoch) == (6, 2)  # 8 images in batches of 4
    assert result.learns and result.overfit_steps == 60
    assert result.loss[1] < 0.6 * result.loss[0] and result.matched_iou[1] > result.matched_iou[0]
    assert result.images == 4 and result.boxes > 0
    assert result.seconds > result.seconds_per_step * result.steps  # evaluations too
    assert not list(tmp_path.iterdir()), "it leaves nothing"


def test_a_model_that_cannot_learn_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERFIT_STEPS", 20)
    frozen: dict[str, Any] = {"train.lr": 1e-12, "train.lr_backbone": 0.0, "train.muon.lr": 1e-12}
    result = train_dry_run(preset="drawn-dogs", data=SOURCE, overrides={**QUICK, **frozen})
    assert not result.learns


def test_the_command_prints_it_and_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "OVERFIT_STEPS", 60)
    words = [f"--{key}={value}" for key, value in QUICK.items()]
    result = CliRunner().invoke(
        app, ["train", "--preset", "drawn-dogs", "--data", SOURCE, "--dry-run", *words]
    )
    assert result.exit_code == 0 and "6 steps, 2 an epoch" in result.output
    assert "the model learns it: data, boxes and loss fit together" in result.output
    assert not (tmp_path / "run").exists()


def test_it_does_not_go_with_resume() -> None:
    result = CliRunner().invoke(app, ["train", "--data", SOURCE, "--dry-run", "--resume"])
    assert isinstance(result.exception, UserError)
    assert "it does not go with --resume" in str(result.exception)


def test_data_without_boxes_is_an_error(make_coco: Any) -> None:
    with pytest.raises(UserError, match="no"):
        train_dry_run(preset="drawn-dogs", data=str(make_coco([], images=4)), overrides=QUICK)
