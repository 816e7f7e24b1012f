"""Training as a cluster's job: options, batch script, preemption. submitit's local executor stands in for Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import reliability_ddp
from safetensors.torch import load_file

from detrscope.commands.slurm import JOBS, Submitted, batch_script, preempted_by_slurm, submit_training
from detrscope.core.errors import UserError
from detrscope.training.config import RunConfig, nest_run_config, resolve_training_config
from detrscope.training.run_folder import LAST, RunFolder
from detrscope.training.slurm_options import SlurmOptions, parse_minutes

EPOCHS = 12
TIMES = ("seconds", "images_per_second", "memory_mb")


def test_words_become_options() -> None:
    parsed = SlurmOptions.parsed(["partition=gpu nodes=2 gpus=8", "time=12:00:00 setup='module load cuda'"])
    assert (parsed.partition, parsed.nodes, parsed.devices) == ("gpu", 2, 8)
    assert (parsed.minutes, parsed.setup) == (720, "module load cuda")
    assert parsed.train_settings({}) == {"train.nodes": 2, "train.devices": 8}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("1:30", 2),
        ("2:30:00", 150),
        ("1-12", 2160),
        ("2-00:30", 2910),
        ("0", 0),
        ("noon", 0),
        ("1:2:3:4", 0),
    ],
)
def test_times_are_slurms(text: str, minutes: int) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin=gpu", "unknown key 'partitoin'; did you mean 'partition'"),
        ("nodes=1 nodes=2", "'nodes' is given twice"),
        ("gpu", "'gpu': expected key=value"),
        ("partition=", "expected key=value"),
        ("nodes=0", "nodes"),
        ("nodes=two", "nodes"),
        ("time=tomorrow", "time is tomorrow: expected minutes"),
        ("time=1 notice=60", "notice is 60: expected less than the time limit"),
        ("gpus=4 processes=2", "processes is 2: expected one for each of the 4 GPUs"),
        ("cluster=local nodes=2", "nodes is 2: expected 1"),
        ("setup='module", "no closing quotation"),
    ],
)
def test_wrong_words_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SlurmOptions.parsed([text])


def test_settings_that_contradict_the_job_are_refused() -> None:
    with pytest.raises(UserError, match=r"train\.devices is 2, but the Slurm job has 8"):
        SlurmOptions(gpus=8).train_settings({"train": {"devices": 2}})


def test_the_batch_script_says_what_is_asked_for(tmp_path: Path) -> None:
    options = SlurmOptions(partition="gpu", nodes=2, gpus=8, time="1-0", memory=200, setup="module load cuda")
    lines = batch_script(options, tmp_path / "run").splitlines()
    for expected in (
        "nodes=2",
        "ntasks-per-node=8",
        "gpus-per-node=8",
        "time=1440",
        "mem=200GB",
        "signal=USR2@120",
    ):
        assert f"#SBATCH --{expected}" in lines
    assert "#SBATCH --requeue" in lines and "module load cuda" in lines
    assert lines[-1].startswith("srun ") and "--kill-on-bad-exit=1" in lines[-1]
    assert not (tmp_path / "run").exists()


def test_without_slurm_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = resolve_training_config(None, None, {"data": {"source": "coco:x"}})
    with pytest.raises(UserError, match=r"this machine has no Slurm .* cluster=local"):
        submit_training(SlurmOptions(), config, tmp_path / "run")


def _config(data: Path) -> RunConfig:
    settings = {
        **reliability_ddp.SHARED,
        **reliability_ddp.CASES["sprint-dense"],
        "data.source": f"coco:{data}",
        "train.epochs": EPOCHS,
        "train.devices": 2,
        "train.threads": 1,
    }
    return resolve_training_config(None, None, nest_run_config(settings))


def _wait(condition: Callable[[], bool], job: Submitted, seconds: float = 500) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, job.log_file.read_text() if job.log_file.exists() else "no log"
        time.sleep(0.05)


def _tasks(job: Submitted) -> list[int]:
    found = subprocess.run(["pgrep", "-P", job.job_id], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no SIGUSR2")
def test_a_preempted_job_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    reliability_ddp.write_images(tmp_path / "data")
    options = SlurmOptions(cluster="local", processes=2, time="30")
    cut = submit_training(options, _config(tmp_path / "data"), tmp_path / "cut")
    _wait(lambda: len(RunFolder(tmp_path / "cut").rows()) >= 2, cut)
    for task in _tasks(cut):
        os.kill(task, signal.SIGUSR2)
    _wait(cut.job.done, cut)
    text = cut.log_file.read_text()
    assert "Requeued job" in text and "resuming after epoch" in text, text
    whole = submit_training(options, _config(tmp_path / "data"), tmp_path / "whole")
    _wait(whole.job.done, whole)
    assert "resuming" not in whole.log_file.read_text()
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in RunFolder(tmp_path / name).rows()]
        for name in ("cut", "whole")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == EPOCHS
    one, other = (load_file(tmp_path / name / LAST) for name in ("cut", "whole"))
    assert all(one[key].equal(other[key]) for key in other)
    assert (tmp_path / "cut" / JOBS).is_dir()


@pytest.mark.parametrize(
    ("shown", "preempted"),
    [
        ("echo JobId=7 PreemptTime=2026-11-30T11:35:46 SuspendTime=None", True),
        ("echo JobId=7 PreemptTime=None SuspendTime=None", False),  # cancelled
        ("exit 1", False),
    ],
)
def test_slurm_is_asked_why_it_ends_a_job(
    shown: str, preempted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{shown}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert preempted_by_slurm(SimpleNamespace(cluster="slurm", job_id="7")) is preempted
    assert not preempted_by_slurm(SimpleNamespace(cluster="local", job_id="7"))


def test_wrong_input_ends_a_job_in_one_line(tmp_path: Path) -> None:
    config = resolve_training_config(None, None, {"data": {"source": f"coco:{tmp_path}/nowhere"}})
    job = submit_training(SlurmOptions(cluster="local", time="10"), config, tmp_path / "run")
    _wait(job.job.done, job)
    text = job.log_file.read_text()
    assert "detrscope: " in text and "nowhere" in text and "Traceback" not in text
