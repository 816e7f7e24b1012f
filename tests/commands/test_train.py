"""`detrscope train` from the settings to the run folder, with a real (small) DETR on real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from detrscope.checkpoints.native import load_checkpoint
from detrscope.cli import train as commands
from detrscope.commands import train as command
from detrscope.core.errors import UserError
from detrscope.training import setup
from detrscope.training.config import RunConfig, resolve_training_config
from detrscope.training.run_folder import RunFolder
from tests.support.datasets import MakeDataset

SMALL: dict[str, Any] = {
    "model": {
        "variant": "detr-r18",
        "backbone_weights": "none",
        "overrides": {
            "width": 16,
            "queries": 5,
            "backbone": {"trainable_stages": 0},
            "encoder": {"layers": 1, "heads": 2, "feedforward": 16},
            "decoder": {"layers": 2, "heads": 2, "feedforward": 16},
        },
    },
    "data": {"batch_size": 4, "workers": 0, "short_side": 48, "long_side": 64},
    "augment": {"sizes": [], "crop": 0.0},
    "train": {"epochs": 1, "lr": 1e-3, "accelerator": "cpu"},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    app.command("train", context_settings=commands.CONTEXT)(commands.train)
    app.command("plot")(commands.plot)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(SMALL))  # JSON is YAML
    return file


def test_run_folder_has_the_documented_files(
    tmp_path: Path, make_dataset: MakeDataset, settings: Path
) -> None:
    data, out = make_dataset(), tmp_path / "run"
    result = invoke(
        "train", "--config", settings, "--data", f"coco:{data}", "--out", out, "--train.epochs=2", "--quiet"
    )
    assert result.exit_code == 0, result.output
    files = (
        "best.safetensors config.yaml curves.png last.pt last.safetensors log.txt metrics.csv metrics.jsonl"
    )
    assert sorted(p.name for p in out.iterdir()) == [*files.split(), "per_class.csv", "previous.pt"]
    rows = RunFolder(out).rows()
    assert [row["step"] for row in rows] == [2, 4] and rows[1]["val/AP"] is not None
    assert "epoch 2/2" in (out / "log.txt").read_text() and "AP" in (out / "log.txt").read_text()
    _, card = load_checkpoint(out / "last.safetensors")
    assert card.classes.ids == (1, 7, 900) and card.classes.names[2] == "class-900"
    assert (card.preprocessing.short_side, card.preprocessing.long_side) == (48, 64)
    assert card.metrics["AP"] == rows[1]["val/AP"]
    assert RunFolder(out).config().train.epochs == 2
    state = torch.load(out / "last.pt", weights_only=True)
    assert {"model", "optimizer", "ema", "scaler", "random", "progress"} <= state.keys()

    picture = tmp_path / "both.png"
    assert (
        invoke("plot", out, out, "--out", picture, "--quiet").exit_code == 0
        and picture.stat().st_size > 10_000
    )


def test_overwrite_resume_and_more_epochs(tmp_path: Path, make_dataset: MakeDataset, settings: Path) -> None:
    data, out = make_dataset(), tmp_path / "run"
    given = ("train", "--config", settings, "--data", data, "--out", out, "--quiet")
    assert invoke(*given).exit_code == 0
    before = (out / "last.pt").read_bytes()
    refused = invoke(*given)
    assert isinstance(refused.exception, UserError) and "resume=True" in str(refused.exception)
    both = invoke(*given, "--resume", "--from", "detr-r50")
    assert isinstance(both.exception, UserError) and "give one of them" in str(both.exception)
    changed = invoke("train", "--out", out, "--resume", "--train.lr=0.5")
    assert isinstance(changed.exception, UserError) and "train.lr 0.001 -> 0.5" in str(changed.exception)
    assert invoke("train", "--out", out, "--resume", "--quiet").exit_code == 0
    assert (out / "last.pt").read_bytes() == before
    assert invoke("train", "--out", out, "--resume", "--train.epochs=2", "--quiet").exit_code == 0
    assert [row["epoch"] for row in RunFolder(out).rows()] == [1, 2]
    assert invoke(*given, "--overwrite").exit_code == 0
    assert [row["epoch"] for row in RunFolder(out).rows()] == [1]


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    result = invoke("train", "--out", tmp_path / "run", "--resume")
    assert isinstance(result.exception, UserError) and "no run to resume" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_fine_tuning_resets_only_the_class_head(
    tmp_path: Path, make_dataset: MakeDataset, settings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = command.train(settings, data=make_dataset(), out=tmp_path / "first")
    other = make_dataset("others", categories=(3, 4))
    config = setup.resolve_run(settings, data=other, from_=first.folder / "last.safetensors")
    with pytest.raises(UserError, match=r"brings its own model: leave out model\.variant"):
        setup.resolve_run(data=other, from_="detr-r50", overrides={"model.variant": "detr-r18"})
    dataset, _ = setup.open_training_data(config)
    loaded, filled = setup.make_training_model(config, dataset, fresh=True)
    old, new = load_file(first.folder / "last.safetensors"), loaded.model.state_dict()
    reset = {name for name in old if old[name].shape != new[name].shape or not old[name].equal(new[name])}
    assert reset == {"heads.class_head.weight", "heads.class_head.bias"}
    assert new["heads.class_head.weight"].shape == (3, 16)
    assert set(loaded.report.reset) == reset
    assert filled.model.overrides["queries"] == 5 and filled.model.variant == "detr-r18"
    tuned = command.train(config, out=tmp_path / "tuned")
    _, card = load_checkpoint(tuned.folder / "last.safetensors")
    assert card.classes.ids == (3, 4)
    (tmp_path / "first" / "last.safetensors").unlink()  # resuming needs the run folder only
    again = command.train(out=tmp_path / "tuned", resume=True, overrides={"train.epochs": 2})
    assert again.epochs == 2


def test_two_processes_take_the_step_of_one(tmp_path: Path, make_dataset: MakeDataset) -> None:
    data = make_dataset(images=4)
    overrides = {
        **SMALL,
        "data": {**SMALL["data"], "source": str(data), "val_split": None},
        "train": {**SMALL["train"], "epochs": 2, "precision": "fp32"},
    }
    for stack in ("encoder", "decoder"):
        overrides["model"]["overrides"][stack]["dropout"] = 0.0
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, json\n"
        "from detrscope.commands.train import train\n"
        "train(out=sys.argv[1], overrides={**json.loads(sys.argv[3]), 'train.devices': int(sys.argv[2])})\n"
    )
    command.train(out=tmp_path / "one", overrides=overrides)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "two", "2", json.dumps(overrides)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        load_file(tmp_path / "one" / "last.safetensors"),
        load_file(tmp_path / "two" / "last.safetensors"),
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-5, msg=name)
    for row, other in zip(
        RunFolder(tmp_path / "one").rows(), RunFolder(tmp_path / "two").rows(), strict=True
    ):
        for key in ("train/loss", "train/loss_box_0", "train/grad_norm"):
            assert row[key] == pytest.approx(other[key], rel=1e-3), key
    state = RunFolder(tmp_path / "two").load_state()
    assert state is not None and len(state["random"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.epoch=3"], "unknown key 'train.epoch'; did you mean 'epochs'"),
        (["--resum"], "unknown option '--resum'; did you mean '--resume'"),
        (["--epochs", "3"], "unknown option '--epochs'; did you mean '--train.epochs'"),
        (["--batch-size=4"], "unknown option '--batch-size'; did you mean '--data.batch_size'"),
        (["--num-classes", "3"], "leave it out: the classes are those of the dataset"),
        (["--model.num_classes=3"], "leave it out: the classes are those of the dataset"),
        (["--trian.epochs", "3"], "unknown option '--trian.epochs'"),
        (["--preset", "bcdd"], "preset 'bcdd' is not known; did you mean 'bccd'"),
        (["--train.precision=fp16", "--data", "x"], "needs a GPU"),
        (["--train.accelerator=abacus", "--data", "x"], "train.accelerator is 'abacus': expected 'auto'"),
        ([], "no dataset: expected one, such as data=coco:path/to/coco"),
        (["--data", "coco:nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = invoke("train", "--out", tmp_path / "run", *arguments)
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception) and "\n" not in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_dataset_without_boxes_is_refused(tmp_path: Path, make_dataset: MakeDataset, settings: Path) -> None:
    with pytest.raises(UserError, match="no boxes in any of its 6 images"):
        command.train(settings, data=make_dataset(boxes=0), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_boxes_than_queries_is_a_warning(
    make_dataset: MakeDataset, settings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from detrscope.console import log

    config = setup.resolve_run(settings, data=make_dataset(boxes=7))
    dataset, _ = setup.open_training_data(config)
    log.addHandler(caplog.handler)
    setup.warn_of_crowded_images(config, dataset)
    log.removeHandler(caplog.handler)
    assert "6 images have more boxes than the model's 5 queries, such as 0.png with 7" in caplog.text


def test_ctrl_c_is_exit_code_130(
    tmp_path: Path, make_dataset: MakeDataset, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "train_model", interrupted)
    result = invoke(
        "train", "--config", settings, "--data", make_dataset(), "--out", tmp_path / "run", "--quiet"
    )
    assert result.exit_code == 130


def test_print_config_round_trips_without_training(tmp_path: Path) -> None:
    result = invoke(
        "train", "--preset", "dogs-reduced", "--train.epochs=3", "--out", tmp_path / "run", "--print-config"
    )
    file = tmp_path / "printed.yaml"
    file.write_text(result.stdout)
    assert resolve_training_config(file=file) == resolve_training_config(
        "dogs-reduced", overrides={"train.epochs": 3}
    )
    assert not (tmp_path / "run").exists()


def test_help_ends_with_every_setting() -> None:
    text = invoke("train", "--help").stdout
    assert "--resume" in text and "Presets: bccd" in text
    for key in ("train.schedule.kind", "data.batch_size", "augment.flip", "model.overrides.encoder.layers"):
        assert key in text
    assert text.index("--overwrite") < text.index("train.loss.no_object")


def test_python_and_command_line_take_the_same_settings(settings: Path) -> None:
    config = setup.resolve_run(RunConfig(), overrides={"train.epochs": 4}, data="x")
    assert config.train.epochs == 4 and config.data.source == "x"
