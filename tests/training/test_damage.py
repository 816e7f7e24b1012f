"""Run folders that were damaged, used twice or left by a killed process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrscope.console import log
from detrscope.core import cpu as cores
from detrscope.core import file_lock as lock
from detrscope.core.errors import UserError
from detrscope.core.files import sweep
from detrscope.training.run_folder import METRICS_JSONL, PREVIOUS, STATE, RunFolder
from detrscope.training.train_config import TrainConfig
from detrscope.training.train_state import Averages
from tests.support.tiny_training import run

CONFIG = TrainConfig(epochs=3, lr=1e-3, lr_backbone=1e-3)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(log, "propagate", True)
    return caplog


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run(tmp_path / "run", CONFIG)
    return RunFolder(tmp_path / "run")


GOOD = b'{"epoch": 1, "step": 2}\n'


@pytest.mark.parametrize(
    "text",
    [
        GOOD + b'{"epoch": 2, "st',
        GOOD + b"\0\0\0\0\n",
        GOOD + '{"epoch": 2, "é": 1}'.encode("latin-1"),
        b'[1, 2]\n"text"\n' + GOOD,
        GOOD + b'{"step": 4}\n',
        GOOD + b'{"epoch": "two"}\n',
        GOOD + b"[" * 5000,
        GOOD + GOOD,
    ],
)
def test_the_whole_rows_count_and_one_line_says_what_was_dropped(
    text: bytes, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    (tmp_path / METRICS_JSONL).write_bytes(text)
    for _ in range(2):
        assert RunFolder(tmp_path).rows() == [{"epoch": 1, "step": 2}]
    (line,) = [r.getMessage() for r in messages.records]
    assert "damaged and left out" in line and METRICS_JSONL in line


def test_lost_rows_are_mentioned_and_a_resumed_run_goes_on(
    folder: RunFolder, messages: pytest.LogCaptureFixture
) -> None:
    path = folder / METRICS_JSONL
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    outcome, _ = run(folder.path, TrainConfig(epochs=4, lr=1e-3, lr_backbone=1e-3))
    assert outcome.epochs == 4
    assert any("metrics of 1 epochs are lost, such as 1" in r.getMessage() for r in messages.records)


def flip(path: Path) -> None:
    """Change one bit of the largest tensor's bytes."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def of_something_else(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [flip, cut, of_something_else, Path.unlink])
def test_a_damaged_state_is_found_and_the_one_before_is_taken(
    damage: object, folder: RunFolder, messages: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    whole, _ = run(folder.path.parent / "whole", TrainConfig(epochs=5, lr=1e-3, lr_backbone=1e-3))
    damage(folder / STATE)
    outcome, _ = run(folder.path, TrainConfig(epochs=5, lr=1e-3, lr_backbone=1e-3))
    assert any(PREVIOUS in r.getMessage() and "before it" in r.getMessage() for r in messages.records)
    for name in ("metrics.jsonl",):
        rows, others = (
            [{k: v for k, v in row.items() if k.startswith("train/")} for row in RunFolder(o.folder).rows()]
            for o in (outcome, whole)
        )
        assert rows == others, name


def test_no_state_that_can_be_read_is_one_line(folder: RunFolder) -> None:
    flip(folder / STATE)
    flip(folder / PREVIOUS)
    with pytest.raises(UserError, match=r"last\.pt: is (damaged|not a training state).*--from"):
        folder.load_state()
    (folder / STATE).unlink(), (folder / PREVIOUS).unlink()
    with pytest.raises(UserError, match="missing, though 3 epochs were trained"):
        folder.load_state()


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    one = RunFolder(tmp_path / "run")
    code = (
        "import sys\nfrom detrscope.training.run_folder import RunFolder\n"
        "try:\n    with RunFolder(sys.argv[1]).locked(): print('taken')\n"
        "except Exception as error: print(error)\n"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(one.path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with one.locked():
        assert "another training is running in it" in other()
        with pytest.raises(UserError, match="another training is running"), RunFolder(one.path).locked():
            pass
    assert not one.path.exists()  # nothing is left where nothing was written
    assert other() == "taken\n"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom detrscope.training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked(): os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run" / lock.NAME).exists()
    with RunFolder(tmp_path / "run").locked():
        pass


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    names = [
        ".last.abcd_123.pt",
        ".metrics.12345678.csv",
        ".last.abcd_123.pth",
        ".mine.abcdefgh.pt",
        "last.pt",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert sweep(tmp_path, ["last.pt", "metrics.csv"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[2:])


def test_averages_of_several_processes_are_means_over_what_they_met() -> None:
    one, other = Averages(), Averages()
    one.add({"loss": 1.0, "matched_iou": 0.5, "only_here": 3.0}, {"matched_iou": 3})
    other.add({"loss": 2.0, "matched_iou": 0.9}, {"matched_iou": 1})
    other.add({"loss": 3.0, "matched_iou": float("nan")}, {"matched_iou": 0})
    means = Averages.together([one, other]).means()
    assert means == pytest.approx({"loss": 2.0, "matched_iou": 0.6, "only_here": 3.0})


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_quota_of_a_container(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.cpu_quota(tmp_path) == quota
    assert 1 <= cores.usable_cores() <= (os.cpu_count() or 1)


def test_metrics_are_written_whole(folder: RunFolder) -> None:
    rows = [json.loads(line) for line in (folder / METRICS_JSONL).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
