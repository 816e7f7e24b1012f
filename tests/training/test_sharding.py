"""Weights divided among two processes (FSDP) take the steps of whole ones; checkpoints stay whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import reliability_ddp
from safetensors.torch import load_file
from torch import nn

from detrscope.core.errors import UserError
from detrscope.training.launch import make_fabric
from detrscope.training.run_folder import LAST, RunFolder
from detrscope.training.sharding import load_optimizer, load_weights, whole
from detrscope.training.train_config import EmaConfig, MuonConfig, TrainConfig
from detrscope.training.train_step import check_training_support
from tests.support.tiny_models import tiny


def _train(folder: Path, out: str, *options: str) -> str:
    settings = {
        **reliability_ddp.SHARED,
        "model.variant": "sprint-dense-n",
        "train.threads": 1,
        "train.epochs": 2,
    }
    words = [f"--{key}={'null' if value is None else value}" for key, value in settings.items()]
    words += [f"--data.source=coco:{folder}/data", "--out", str(folder / out)]
    command = [sys.executable, "-m", "detrscope", "train", *words, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_a_divided_run_resumes_on_one_process(tmp_path: Path) -> None:
    reliability_ddp.write_images(tmp_path / "data")
    _train(tmp_path, "whole")
    _train(tmp_path, "divided", "--train.devices=2", "--train.strategy=fsdp", "--train.epochs=1")
    state = RunFolder(tmp_path / "divided").load_state()
    assert state is not None
    assert all(type(value) is torch.Tensor for value in state["model"].values())
    assert all(type(row["exp_avg"]) is torch.Tensor for row in state["optimizer"]["state"].values())
    log = _train(tmp_path, "divided", "--resume", "--train.devices=1", "--train.strategy=ddp")
    assert "resuming after epoch 1" in log
    one, other = (load_file(tmp_path / name / LAST) for name in ("whole", "divided"))
    assert one.keys() == other.keys()
    for name in (
        one
    ):  # float32: the order of sums moves AdamW's steps of 1e-4, and the statistics that follow from them
        limit = 1e-2 if "running_" in name else 1e-3
        assert (other[name] - one[name]).abs().max() < limit, name
    whole_rows, divided_rows = (RunFolder(tmp_path / name).rows() for name in ("whole", "divided"))
    for key in (
        "train/loss",
        "train/grad_norm",
    ):  # AdamW and clipping hide a wrong scale of gradients from the weights
        assert divided_rows[0][key] == pytest.approx(whole_rows[0][key], rel=2e-3), key
        assert divided_rows[1][key] == pytest.approx(whole_rows[1][key], rel=0.1), key


def test_whole_states_pass_through_unchanged() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = whole({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    other = nn.Linear(3, 2)
    again = torch.optim.AdamW(other.parameters())
    load_weights(other, state["model"])
    load_optimizer(again, state["optimizer"])
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(again.state[other.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])


def test_one_process_has_nothing_to_divide() -> None:
    with pytest.raises(UserError, match=r"train\.strategy is fsdp, .* and there is one"):
        make_fabric(TrainConfig(strategy="fsdp", accelerator="cpu", precision="fp32"))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TrainConfig(strategy="fsdp", ema=EmaConfig(enabled=True)), "train.ema.enabled"),
        (TrainConfig(strategy="fsdp", muon=MuonConfig(enabled=True)), "train.muon.enabled"),
        (TrainConfig(strategy="fsdp", precision="fp16"), "train.precision fp16"),
    ],
)
def test_what_needs_whole_tensors_is_refused(config: TrainConfig, name: str) -> None:
    with pytest.raises(UserError, match=name):
        check_training_support(tiny("sprint-dense-n").model, config)
