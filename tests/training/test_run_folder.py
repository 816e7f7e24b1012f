"""Run folders: in use, damaged, resumed, or left by a killed process."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrscope.core import file_lock as lock
from detrscope.core.errors import UserError
from detrscope.core.files import remove_temporary_files
from detrscope.training.config import RunConfig, resolve_training_config
from detrscope.training.run_folder import (
    LAST,
    METRICS_JSONL,
    PREVIOUS,
    STATE,
    RunFolder,
    log_to_run_folder,
    refuse_changes,
)
from detrscope.training.train_config import TrainConfig
from tests.support.tiny_training import run

CONFIG = TrainConfig(epochs=3, lr=1e-3, lr_backbone=1e-3)


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
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
def test_damaged_rows_are_dropped_with_one_warning(
    text: bytes, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    (tmp_path / METRICS_JSONL).write_bytes(text)
    for _ in range(2):
        assert RunFolder(tmp_path).rows() == [{"epoch": 1, "step": 2}]
    (line,) = [r.getMessage() for r in messages.records]
    assert "damaged and left out" in line and METRICS_JSONL in line


def test_resuming_warns_of_lost_rows(folder: RunFolder, messages: pytest.LogCaptureFixture) -> None:
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
def test_damaged_state_falls_back_to_the_previous_one(
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


def test_unreadable_states_are_refused_in_one_line(folder: RunFolder) -> None:
    flip(folder / STATE)
    flip(folder / PREVIOUS)
    with pytest.raises(UserError, match=r"last\.pt: is (damaged|not a training state).*from_="):
        folder.load_state()
    (folder / STATE).unlink(), (folder / PREVIOUS).unlink()
    with pytest.raises(UserError, match="missing, though 3 epochs were trained"):
        folder.load_state()


def test_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
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


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom detrscope.training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked(): os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run" / lock.NAME).exists()
    with RunFolder(tmp_path / "run").locked():
        pass


def test_lock_that_cannot_be_removed_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may become read-only while a run writes to it."""

    def fails(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with pytest.raises(OSError, match="the first error"), RunFolder(tmp_path).locked():
        monkeypatch.setattr(Path, "unlink", fails)
        raise OSError("the first error")
    monkeypatch.undo()
    with RunFolder(tmp_path).locked():  # it is free again
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
    assert remove_temporary_files(tmp_path, ["last.pt", "metrics.csv"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[2:])


def test_metrics_are_written_whole(folder: RunFolder) -> None:
    rows = [json.loads(line) for line in (folder / METRICS_JSONL).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_resuming_refuses_changes_of_the_recipe(tmp_path: Path) -> None:
    old = resolve_training_config("detr-r50-coco")
    refuse_changes(
        old,
        resolve_training_config("detr-r50-coco", overrides={"train.epochs": 400, "data.workers": 0}),
        tmp_path,
    )
    with pytest.raises(UserError, match=r"train\.lr 0\.0001 -> 0\.001.*from_=.*" + LAST):
        refuse_changes(old, resolve_training_config("detr-r50-coco", overrides={"train.lr": 1e-3}), tmp_path)


def test_folder_in_use_is_refused_unless_overwritten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.refuse_if_in_use(overwrite=False)
    folder.write_config(RunConfig())
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already contains a run; continue it with resume=True"):
        folder.refuse_if_in_use(overwrite=False)
    folder.refuse_if_in_use(overwrite=True)
    folder.clear()
    assert [p.name for p in folder.path.iterdir()] == ["notes.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "file").refuse_if_in_use(overwrite=True)


def test_log_file_is_written_when_the_terminal_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from detrscope import console

    console.setup_console(quiet=True)
    with log_to_run_folder(tmp_path / "log.txt"):
        console.log.info("epoch 1")
    console.log.info("afterwards")
    assert "epoch 1" in (tmp_path / "log.txt").read_text()
    assert "afterwards" not in (tmp_path / "log.txt").read_text()
    assert "epoch 1" not in capsys.readouterr().err
    console.setup_console()
