"""Training as a cluster's job: options, batch script, preemption. submitit's local executor stands in for Slurm."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit
from benchmarks import reliability_ddp
from safetensors.torch import load_file
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE, LocalJobEnvironment

from detrscope.commands import slurm
from detrscope.commands import train as train_command
from detrscope.commands.slurm import Submitted, TrainJob, batch_script, preempted_by_slurm, submit_training
from detrscope.commands.train import BEGUN, JOBS
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.training.config import RunConfig, nest_run_config, resolve_training_config
from detrscope.training.run_folder import LAST, STATE, RunFolder
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


@pytest.mark.parametrize("found", [5, None, [1]])
def test_a_value_in_place_of_the_train_settings_is_refused(found: object) -> None:
    with pytest.raises(UserError, match=r"train is .*: expected settings of it, such as train\.epochs"):
        SlurmOptions(gpus=1).train_settings({"train": found})


def test_the_printed_script_is_what_submitit_submits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("sys.executable", "/opt/my python/bin/python")
    options = SlurmOptions(partition="gpu", nodes=2, gpus=8, memory=200, setup="module load cuda")
    out = tmp_path / "my runs; $HOME"
    auto = submitit.AutoExecutor(out / JOBS, cluster="slurm")
    auto.update_parameters(**slurm._parameters(options))
    executor: Any = auto._executor
    expected = executor._make_submission_file_text(executor._submitit_command_str, "1")
    assert batch_script(options, out) == expected
    assert "'/opt/my python/bin/python' -u" in expected and f"'{out}/slurm'" in expected


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


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each training resumed; instead of training, its first files are written."""
    calls: list[bool] = []

    def begin(config: RunConfig, folder: RunFolder, resume: bool, job: str | None = None) -> None:
        calls.append(resume)
        if not resume:
            train_command._begin(folder, job)
        folder.write_config(config)

    monkeypatch.setattr(slurm, "train_in_folder", begin)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    return calls


def _old_run(folder: Path) -> RunConfig:
    folder.mkdir()
    config = resolve_training_config(None, None, {"data": {"source": "coco:x"}})
    RunFolder(folder).write_config(config)
    (folder / STATE).write_text("the old run's")
    return config


def test_a_job_requeued_before_it_began_replaces_the_old_run(tmp_path: Path, resumed: list[bool]) -> None:
    config = _old_run(tmp_path / "run")
    job = TrainJob(config, tmp_path / "run", overwrite=True)
    job.checkpoint().function._train()  # what submitit puts into the queue
    assert resumed == [False] and not (tmp_path / "run" / STATE).exists()
    job._train()
    assert resumed == [False, True]


def test_a_job_killed_before_its_first_file_begins_again(tmp_path: Path, resumed: list[bool]) -> None:
    job = TrainJob(_old_run(tmp_path / "run"), tmp_path / "run", overwrite=True)
    for _ in range(2):
        train_command._begin(RunFolder(tmp_path / "run"), job.mark)
    job._train()
    job._train()
    assert resumed == [False, True]


@pytest.mark.parametrize("other", [None, "another job"])
def test_a_job_leaves_a_run_that_replaced_its_own(
    other: str | None, tmp_path: Path, resumed: list[bool]
) -> None:
    config = _old_run(tmp_path / "run")
    job = TrainJob(config, tmp_path / "run", overwrite=True)
    job._train()
    train_command._begin(RunFolder(tmp_path / "run"), other)
    (tmp_path / "run" / STATE).write_text("the new run's")
    with pytest.raises(UserError, match="another run has replaced the one that this job began"):
        job._train()
    assert resumed == [False] and (tmp_path / "run" / STATE).read_text() == "the new run's"


def test_a_job_without_overwrite_never_takes_a_strange_run(tmp_path: Path, resumed: list[bool]) -> None:
    job = TrainJob(_old_run(tmp_path / "run"), tmp_path / "run")
    with pytest.raises(UserError, match="already contains a run"):
        job._train()
    assert not resumed and not (tmp_path / "run" / JOBS / BEGUN).exists()


@pytest.fixture
def in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], TrainJob]]:
    """Return a job that is out of time, with so many requeues left, in whose first process this is."""
    numbers = (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    for name, value in (("EXECUTOR", "local"), ("LOCAL_JOB_ID", "7"), ("LOCAL_GLOBALID", "0")):
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path))

    def make(requeues: int) -> TrainJob:
        job = TrainJob(RunConfig(), tmp_path / "run")
        delayed = submitit.helpers.DelayedSubmission(job)
        delayed.set_timeout(1, requeues)
        environment = submitit.JobEnvironment()
        environment._handle_signals(environment.paths, delayed)
        return job

    yield make
    for number, handler in before.items():
        signal.signal(number, handler)


def _submit_again(job: TrainJob, caplog: pytest.LogCaptureFixture) -> tuple[int, str]:
    with caplog.at_level(logging.INFO, logger=log.name), pytest.raises(SystemExit) as ended:
        job._submit_again()
    assert isinstance(ended.value.code, int)
    return ended.value.code, "\n".join(r.getMessage() for r in caplog.records if r.module == "slurm")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no SIGUSR2")
def test_only_a_job_in_the_queue_is_said_to_be(
    in_a_job: Callable[[int], TrainJob], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = _submit_again(in_a_job(1), caplog)
    assert (code, text) == (LOCAL_REQUEUE_RETURN_CODE, "job 7: saved; submitted again")
    caplog.clear()
    code, text = _submit_again(in_a_job(0), caplog)
    assert code == 130 and "out of time, no requeues left" in text and "submitted again" not in text
    caplog.clear()

    def refuse(*_: object) -> None:
        raise subprocess.CalledProcessError(1, ["scontrol", "requeue", "7"])

    monkeypatch.setattr(LocalJobEnvironment, "_requeue", refuse)
    code, text = _submit_again(in_a_job(1), caplog)
    assert code == 1 and "saved, but not submitted again" in text and "continue with resume" in text


@pytest.mark.parametrize(
    ("before", "code", "options", "requeued"),
    [
        (None, 130, "", True),
        (None, 0, "", False),
        ("config.yaml", 1, "--resume", False),
        ("config.yaml", 130, "--resume", True),
    ],
)
def test_the_script_of_the_docs_resumes_and_requeues(
    before: str | None,
    code: int,
    options: str,
    requeued: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """srun stands for a training that ends with `code`."""
    page = (Path(__file__).parents[2] / "docs/clusters.md").read_text()
    found = re.search(r"```\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    assert found
    (tmp_path / "run").mkdir()
    if before:
        (tmp_path / "run" / before).touch()
    for name, last in (("srun", f"exit {code}"), ("scontrol", "exit 0")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$0 $@" >> {tmp_path}/called\n{last}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    done = subprocess.run(["bash", "-c", found[1].replace("/shared/run", str(tmp_path / "run"))])
    called = (tmp_path / "called").read_text().splitlines()
    assert done.returncode == code
    assert called[0].endswith(f"--out {tmp_path}/run {options}".rstrip())
    assert called[1:] == ([f"{tmp_path}/scontrol requeue 7"] if requeued else [])


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
