"""An evaluation that processes share gives the numbers of one process, exactly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.reliability_ddp import write_images

from detrscope.checkpoints.load import load_random_model
from detrscope.checkpoints.native import save_checkpoint
from detrscope.commands.processes import evaluation_processes, refuse_several_processes
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.open_dataset import open_dataset
from detrscope.inference.load_detector import LoadOptions


def _evaluate(folder: Path, name: str, *options: str) -> tuple[str, bytes]:
    command = [sys.executable, "-m", "detrscope", "evaluate", "--model", str(folder / "model.safetensors")]
    command += ["--data", f"coco:{folder}/data", "--split", "train", "--out", str(folder / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted(path for path in (folder / name).iterdir() if path.suffix in (".json", ".csv"))
    assert len(files) >= 4
    return done.stdout, b"".join(path.read_bytes() for path in files)


def test_two_processes_give_every_number_of_one(tmp_path: Path) -> None:
    """13 images in batches of 2: seven batches, of which the second process takes three."""
    write_images(tmp_path / "data")
    torch.manual_seed(0)
    classes = open_dataset(f"coco:{tmp_path}/data", "train").classes
    loaded = load_random_model("sprint-dense-n", {}, classes, Preprocessing(64, 64))
    save_checkpoint(tmp_path / "model.safetensors", loaded.model, loaded.card)
    alone = _evaluate(tmp_path, "alone", "--batch-size", "2")
    shared = _evaluate(tmp_path, "shared", "--batch-size", "2", "--devices", "2")
    assert shared == alone


def test_a_named_device_is_not_shared() -> None:
    with pytest.raises(UserError, match="device"), evaluation_processes(2, LoadOptions(device="cuda:0")):
        pass


@pytest.mark.parametrize(
    "launcher", [("WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")]
)
def test_work_that_is_not_shared_is_refused(
    launcher: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launcher[0], "4")
    monkeypatch.setenv(launcher[1], "2")
    with pytest.raises(UserError, match="evaluate --why runs in one process, but the launcher started 4"):
        refuse_several_processes("evaluate --why")
    with (
        pytest.raises(UserError, match="devices is 8, but the launcher started 2"),
        evaluation_processes(8, LoadOptions()),
    ):
        pass
