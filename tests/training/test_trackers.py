"""Experiment trackers: what they got is read back from their own files, also after a kill and a resume."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrscope.commands.train import train
from detrscope.core.errors import UserError
from detrscope.inference import packages
from detrscope.training import trackers
from detrscope.training.run_folder import RunFolder
from detrscope.training.trackers import Logged, Status, Trackers
from tests.support.recorded_run import record_run
from tests.support.wandb_file import wandb_file_records

LOGGERS = ("tensorboard", "wandb", "mlflow")
FROM_ENVIRONMENT = {
    "WANDB_MODE": "offline",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "WANDB_PROJECT": "dogs",
    "MLFLOW_EXPERIMENT_NAME": "dogs",
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A run of two epochs that was killed before its trackers' progress was noted, resumed to a third."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FROM_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_TRACKING_URI", f"file:{folder}/mlruns")
        run = RunFolder(record_run(folder, "run", train__loggers=LOGGERS, data__workers=0))
        noted = json.loads((run / "loggers.json").read_text())
        assert {name: (one["epoch"], one["step"]) for name, one in noted.items()} == dict.fromkeys(
            LOGGERS, (2, 4)
        )
        for name in ("tensorboard", "mlflow"):
            noted[name] |= {"epoch": 1, "step": 2}
        (run / "loggers.json").write_text(json.dumps(noted))
        patch.setenv("DETRSCOPE_CACHE", str(folder / "cache"))
        train(out=run.path, resume=True, overrides={"train.epochs": 3})
        yield run


def columns(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """The columns of metrics.csv as lists of step and value, those that are not defined left out."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in run.rows():
        for name, value in row.items():
            if value is not None:
                found.setdefault(name, []).append((row["step"], value))
    return found


def attention_columns(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    rows = run.attention_rows()
    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    return {f"attention/{name}": [(row["step"], row[name]) for row in rows if name in row] for name in names}


def test_tensorboard_has_every_column_once(resumed: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(resumed / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    expected = columns(resumed) | attention_columns(resumed)
    assert set(events.Tags()["scalars"]) == set(expected) and len(expected["train/loss"]) == 3
    for name, values in expected.items():
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in logged] == [step for step, _ in values], name
        assert [value for _, value in logged] == pytest.approx([value for _, value in values]), name
    images = events.Tags()["images"]
    assert images == ["attention/10000001", "attention/10000002"]
    for name in images:
        assert [event.step for event in events.Images(name)] == [2, 4, 6]
        assert events.Images(name)[0].width == 720
    assert (
        "preset" in (resumed / "tensorboard" / "hparams.yaml").read_text()
        or "train.lr" in (resumed / "tensorboard" / "hparams.yaml").read_text()
    )


def test_mlflow_has_every_column_once(resumed: RunFolder) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"file:{resumed.path.parent}/mlruns")
    experiment = client.get_experiment_by_name("dogs")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["train.recording.count"] == "2" and run.data.params["train.epochs"] == "2"
    for name, values in (columns(resumed) | attention_columns(resumed)).items():
        logged = sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name))
        assert logged == values, name
    images = [
        one.path for one in client.list_artifacts(run.info.run_id, "images") if one.path.endswith(".png")
    ]
    assert len(images) == 6 and all("10000001" in path or "10000002" in path for path in images)


def test_wandb_has_every_column_once(resumed: RunFolder) -> None:
    rows, images, config = wandb_records(resumed / "wandb")
    logged: dict[str, list[tuple[int, float]]] = {}
    for step, row in rows:
        for name, value in row.items():
            logged.setdefault(name, []).append((step, value))
    assert logged == columns(resumed) | attention_columns(resumed)
    assert images == {"attention/10000001": [2, 4, 6], "attention/10000002": [2, 4, 6]}
    assert config["train.recording.count"] == 2
    assert len({path.name.split("-")[-1] for path in (resumed / "wandb").glob("offline-run-*")}) == 1


def wandb_records(
    folder: Path,
) -> tuple[list[tuple[int, dict[str, Any]]], dict[str, list[int]], dict[str, Any]]:
    """History, steps of the images and settings in the files of offline runs, in order."""
    from wandb.proto import wandb_internal_pb2

    rows: list[tuple[int, dict[str, Any]]] = []
    images: dict[str, list[int]] = {}
    config: dict[str, Any] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        for data in wandb_file_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = record.history.item
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                step = row.pop("trainer/global_step")
                if kind := next((name for name in row if name.endswith("/_type")), None):
                    images.setdefault(kind.removesuffix("/_type"), []).append(step)
                else:
                    rows.append((step, {name: value for name, value in row.items() if name[0] != "_"}))
            for update in (record.config.update, record.run.config.update):
                config |= {i.key: json.loads(i.value_json) for i in update if i.key}
    return rows, images, config


class FailsAtFirst:
    """Tracker that keeps what it gets, and whose server does not answer at first."""

    def __init__(self, folder: RunFolder, logged: Logged) -> None:
        self.logged, self.where = logged, "memory"
        self.fails, self.got, self.status = True, [], ""

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        if self.fails:
            self.fails = False
            raise ConnectionError("no answer\nfrom the server")
        self.got.append((step, dict(numbers)))

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        pass

    def finish(self, status: Status) -> None:
        raise ConnectionError("no answer")


def test_a_server_that_fails_gets_the_rows_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", FailsAtFirst)
    folder = RunFolder(tmp_path)
    several = Trackers(["mlflow"], folder, {"a": 1}, lambda step: {})
    (one,) = several._trackers.values()
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        folder.add_row({"epoch": 1, "step": 5, "train/loss": 2.0, "val/AP": None})
        several.update()
        folder.add_row({"epoch": 2, "step": 10, "train/loss": 1.0, "val/AP": 0.5})
        several.update()
        several.update()
        several.finish("success")
    assert isinstance(one, FailsAtFirst)
    assert one.got == [
        (5, {"epoch": 1, "step": 5, "train/loss": 2}),
        (10, {"epoch": 2, "step": 10, "train/loss": 1, "val/AP": 0.5}),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "mlflow: not logged (no answer); it is tried again later",
        "mlflow: not closed (no answer)",
    ]


def test_images_that_cannot_be_drawn_hold_back_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", FailsAtFirst)

    def images(step: int) -> dict[str, np.ndarray]:
        if step == 10:
            raise OSError("a damaged snapshot")
        return {}

    folder = RunFolder(tmp_path)
    several = Trackers(["mlflow"], folder, {}, images)
    (one,) = several._trackers.values()
    assert isinstance(one, FailsAtFirst)
    one.fails = False
    for epoch in (1, 2, 3):
        folder.add_row({"epoch": epoch, "step": 5 * epoch})
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        several.update()
    assert [step for step, _ in one.got] == [5, 10, 15]
    assert "images of step 10 cannot be drawn" in caplog.text


def test_the_end_of_a_run_logs_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", FailsAtFirst)
    folder = RunFolder(tmp_path)
    several = Trackers(["mlflow"], folder, {}, lambda step: {})
    (one,) = several._trackers.values()
    assert isinstance(one, FailsAtFirst)
    folder.add_row({"epoch": 1, "step": 5})
    several.update()  # the server does not answer
    several.finish("success")
    assert [step for step, _ in one.got] == [5]


@pytest.mark.parametrize("name", LOGGERS)
def test_missing_packages_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    says = rf"train.loggers: {name} needs the package {name}; install with: pip install 'detrscope\[{name}\]'"
    with pytest.raises(UserError, match=says):
        train(
            preset="drawn-dogs", data="drawn-dogs:", out=tmp_path / "run", overrides={"train.loggers": [name]}
        )
    assert not (tmp_path / "run").exists()


def test_wandb_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        UserError, match="wandb has no API key; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE"
    ):
        train(
            preset="drawn-dogs",
            data="drawn-dogs:",
            out=tmp_path / "run",
            overrides={"train.loggers": ["wandb"]},
        )


def test_a_store_that_cannot_be_used_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "oddity://nowhere")
    with pytest.raises(UserError, match=r"train\.loggers: mlflow cannot be used: "):
        record_run(tmp_path, "run", train__loggers=("mlflow",), data__workers=0)
    assert not RunFolder(tmp_path / "run").in_use


@pytest.mark.parametrize("names", [["tensorbord"], ["mlflow", "mlflow"], "wandb"])
def test_wrong_names_are_refused(names: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.loggers"):
        train(preset="drawn-dogs", data="drawn-dogs:", out=tmp_path, overrides={"train.loggers": names})


def test_damaged_notes_are_named(tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text('{"mlflow": 3}')
    with pytest.raises(UserError, match=r"loggers\.json: is damaged; remove it"):
        Trackers([], RunFolder(tmp_path), {}, lambda step: {})
