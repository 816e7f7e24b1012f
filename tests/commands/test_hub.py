"""A pushed model has a card, and loads from the hub by its name; the hub is a server on this machine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import detrscope as ds
from detrscope.checkpoints.native import read_checkpoint_card, save_checkpoint
from detrscope.cli import main
from detrscope.commands.hub import push_to_hub
from detrscope.commands.hub_card import CardText, hub_readme
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError, WorkFailed
from detrscope.data.drawn_dogs import write_drawn
from tests.support.doc_blocks import EXAMPLES
from tests.support.equality import same
from tests.support.hub_server import TOKEN, Hub, hub_on_this_machine
from tests.support.tiny_models import tiny

NAME = "alice/drawn-dogs"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # huggingface_hub's own


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_on_this_machine(monkeypatch, str(tmp_path / "cache")) as running:
        yield running


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dogs") / "dogs"
    write_drawn(folder, count=6, seed=1)
    return folder / "images/000005.png"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that was fine-tuned on a private dataset."""
    folder = tmp_path_factory.mktemp("secret") / "run"
    folder.mkdir()
    made = tiny("sprint-dense-n")
    fields = vars(made.card) | {"source": f"fine-tuned from {folder}/old.safetensors"}
    fields |= {"metrics": {"AP": 0.123456, "AP50": 0.5}}
    save_checkpoint(folder / "best.safetensors", made.model, type(made.card)(**fields))
    (folder / "config.yaml").write_text(f"data: {{source: 'coco:{folder}/ward-7'}}\n")
    (folder / "curves.png").write_bytes(b"\x89PNG")
    return folder


def header_of(readme: str) -> dict[str, Any]:
    return dict(yaml.safe_load(readme.split("---\n")[1]))


def test_pushed_model_loads_and_detects_alike(hub: Hub, dog: Path, tmp_path: Path) -> None:
    pushed = ds.push_to_hub("sprint-dense-n", NAME, license="apache-2.0", images=[dog])
    files = hub.repositories[NAME].files
    assert sorted(files) == sorted(pushed.files) and pushed.folder is None
    assert {"README.md", "config.json", "model.safetensors"} < files.keys()
    assert {"example-1.jpg", "example-1-attention.jpg"} < files.keys()
    assert pushed.url == f"{hub.address}/{NAME}" and not hub.repositories[NAME].private
    detector = ds.load(NAME)
    assert detector.classes.names == ("dog",)
    one, other = detector.detect(dog), ds.load("sprint-dense-n").detect(dog)
    assert len(one) and same(
        (one.boxes_xyxy, one.scores, one.names), (other.boxes_xyxy, other.scores, other.names)
    )


def test_code_of_the_card_runs(hub: Hub, dog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds.push_to_hub("sprint-dense-n", NAME, license="mit", images=[dog])
    (tmp_path / "photo.jpg").write_bytes(dog.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("PIL.Image.Image.show", lambda *_: None)
    (code,) = EXAMPLES.findall(hub.repositories[NAME].files["README.md"].decode())
    known: dict[str, Any] = {}
    exec(code, known)
    assert len(known["detections"])


def test_card_has_metrics_licence_and_pictures(run: Path, dog: Path, tmp_path: Path) -> None:
    result = push_to_hub(
        run, "alice/cells", license="cc-by-4.0", images=[dog], dry_run=True, out=tmp_path / "o"
    )
    assert result.url is None and result.folder == tmp_path / "o"
    readme = (tmp_path / "o/README.md").read_text()
    header = header_of(readme)
    assert (header["license"], header["library_name"]) == ("cc-by-4.0", "detrscope")
    (entry,) = header["model-index"]
    assert entry["name"] == "cells"
    (of,) = {one["dataset"]["name"] for one in entry["results"]}
    metrics = {metric["type"]: metric["value"] for one in entry["results"] for metric in one["metrics"]}
    assert (of, metrics) == ("ward-7", {"AP": 0.1235, "AP50": 0.5})
    assert "| 900 | far |" in readme and "| AP | 0.1235 |" in readme
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", readme)
    assert set(pictures) == set(result.files) - {"README.md", "config.json", "model.safetensors"}
    assert "curves.png" in pictures and all((tmp_path / "o" / name).is_file() for name in pictures)


def test_folders_of_this_machine_stay_private(run: Path, tmp_path: Path) -> None:
    push_to_hub(run, "alice/cells", license="mit", dry_run=True, out=tmp_path / "o")
    for file in (tmp_path / "o").iterdir():
        assert b"secret" not in file.read_bytes(), file
    card = read_checkpoint_card(tmp_path / "o/model.safetensors")
    assert card is not None and card.source == "fine-tuned from old.safetensors"
    assert json.loads((tmp_path / "o/config.json").read_text())["source"] == card.source


def test_private_is_asked_for_and_held(hub: Hub, run: Path) -> None:
    push_to_hub(run, "alice/secret", license="mit", private=True)
    assert hub.repositories["alice/secret"].private
    push_to_hub(run, "alice/open", license="mit")
    before = dict(hub.repositories["alice/open"].files)
    with pytest.raises(UserError, match="alice/open: exists and is public; nothing was uploaded"):
        push_to_hub(run, "alice/open", license="mit", private=True)
    assert hub.repositories["alice/open"].files == before


def test_replaced_files_are_named(hub: Hub, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    push_to_hub(run, NAME, license="mit")
    assert "replacing" not in caplog.text
    push_to_hub(run, NAME, license="cc0-1.0")
    assert f"{NAME}: replacing README.md, config.json" in caplog.text
    assert header_of(hub.repositories[NAME].files["README.md"].decode())["license"] == "cc0-1.0"


def test_without_token_nothing_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no token for the Hugging Face hub.*hf auth login"):
        push_to_hub("sprint-dense-n", NAME, license="mit")
    assert not hub.requests


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, UserError, "the hub refused the token"),
        (403, UserError, "the token may not write there"),
        (500, WorkFailed, "cannot be uploaded"),
    ],
)
def test_refusals_say_what_to_do(hub: Hub, run: Path, status: int, kind: type[Exception], says: str) -> None:
    hub.refuse = status
    with pytest.raises(kind, match=f"^{NAME}: .*{says}"):
        push_to_hub(run, NAME, license="mit")


def test_without_network_the_work_failed(monkeypatch: pytest.MonkeyPatch, run: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_on_this_machine(monkeypatch, str(tmp_path)):
        pass  # nobody listens at its address any more
    with pytest.raises(WorkFailed, match=f"^{NAME}: cannot be uploaded .*dry_run=True"):
        push_to_hub(run, NAME, license="mit")


@pytest.mark.parametrize(
    ("model", "repository", "license", "says"),
    [
        ("sprint-dense-n", "dogs", "mit", "expected OWNER/NAME"),
        ("sprint-dense-n", "alice/do--gs", "mit", "repository 'alice/do--gs'"),
        ("sprint-dense-n", NAME, "Apache 2.0", "such as apache-2.0"),
        ("nowhere.safetensors", NAME, "mit", "no such file"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(
    tmp_path: Path, model: str, repository: str, license: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        push_to_hub(model, repository, license=license, dry_run=True, out=tmp_path / "o")
    assert not list(tmp_path.iterdir())


def test_exported_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="push the run or checkpoint"):
        push_to_hub(tmp_path / "model.onnx", NAME, license="mit", dry_run=True, out=tmp_path / "o")


def test_used_folder_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        push_to_hub("sprint-dense-n", NAME, license="mit", dry_run=True, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_names_of_classes_are_text_in_the_card() -> None:
    card = tiny("detr-r18").card
    names = ("a|b", "<script>", "*x*\nline")
    card = type(card)(**(vars(card) | {"classes": ClassTable((1, 2, 3), names)}))
    readme = hub_readme(card, CardText(NAME, "mit", None, (), None))
    assert r"a\|b" in readme and "&lt;script&gt;" in readme and "<script>" not in readme
    assert not re.search(r"^line", readme, re.MULTILINE)
    assert "model-index" not in header_of(readme)


def test_command_writes_the_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"hub push sprint-dense-n {NAME} --license mit --dry-run"
    monkeypatch.setattr(sys, "argv", ["detrscope", *words.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code and (tmp_path / "hub-drawn-dogs/README.md").is_file()
    assert "written to hub-drawn-dogs" in capsys.readouterr().err
