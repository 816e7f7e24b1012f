"""What the docs say can be done, can be done: every command is understood, every Python example runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

import detrscope as ds
from detrscope.checkpoints.native import save_checkpoint
from detrscope.cli.app import app
from detrscope.config import parse_overrides
from detrscope.core.records import DeformableRecord
from detrscope.data.drawn_dogs import write_drawn
from detrscope.training.setup import resolve_run
from detrscope.views.mp4 import write_mp4
from tests.support.doc_blocks import BLOCKS, EXAMPLES
from tests.support.faster_rcnns import write_faster_rcnn
from tests.support.recorded_run import SOURCE, TINY
from tests.support.tiny_models import tiny
from tests.support.traces import detector_of, picture

ROOT = Path(__file__).parent.parent
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
BEFORE = re.compile(r"^(\$ |time |[A-Z_]+=\S+ )*(?=detrscope )")  # what may stand before a command
SHIPPED = ROOT / "src/detrscope/weights/sprint-dense-n-drawn-dogs.safetensors"

ELSEWHERE = {
    "deploy.md": "an exported model; tests/test_examples.py runs it and compares",
    "models.md": "published files; tests/families loads files of their layouts",
    "deformable-detr.md": "published files; tests/families loads files of their layouts",
}
STANDS_FOR: dict[str, dict[str, str]] = {
    "README.md": {
        '"detr-r50"': '"sprint-dense-n"',
        "query=37": "query=3",
        'preset="bccd", data="coco:bccd", out="run")': 'preset="bccd", data="coco:bccd", out="new", overrides=TINY)',
    },
    "data.md": {"voc:BCCD_Dataset": "coco:bccd", "workers=2": "workers=0"},
    "detect.md": {'"detr-r50"': '"sprint-dense-n"', "threshold=0.7": "threshold=0.1"},
    "export.md": {'"dogs.xml"': '"sprint-dense-n"'},
    "timelapse.md": {
        'preset="drawn-dogs", out="run"': 'preset="drawn-dogs", data=SOURCE, overrides=TINY, out="run"'
    },
    "training.md": {'"detr-r50"': '"tiny.safetensors"', '{"train.epochs": 20}': "SHORT"},
}
"""Where an example needs a download or minutes of training, what it is run with in place of that."""


def commands() -> list[tuple[str, str]]:
    """Page and text of every `detrscope ...` in a block of shell."""
    found = []
    for page, text in sorted(PAGES.items()):
        for language, block in BLOCKS.findall(text):
            if language not in ("", "bash"):
                continue
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                for command in re.split(r"&&|;", line):
                    command = BEFORE.sub("", command.strip())
                    if command.startswith("detrscope "):
                        found.append((page, command))
    return found


def leaves(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        yield from leaves(command) if hasattr(command, "commands") else (command,)


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda text: text.partition("#")[0].strip())
def test_every_command_is_understood(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word.replace("$S", "drawn-dogs:") for word in shlex.split(command, comments=True)[1:]]
    words = [word for word in words if word != "..."]  # and whatever else
    asked: list[Any] = []
    tree = typer.main.get_command(app)
    for leaf in leaves(tree):
        monkeypatch.setattr(leaf, "invoke", asked.append)
    tree.main(words, "detrscope", standalone_mode=False)
    if "--help" in words:
        return
    (context,) = asked
    if context.info_name == "train" and not context.params["resume"] and not context.params["config"]:
        given = {key: context.params[key] for key in ("preset", "data", "from_", "probe_images")}
        resolve_run(**given, overrides=parse_overrides(context.args))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the examples name."""
    folder = tmp_path_factory.mktemp("world")
    write_drawn(folder / "dogs", count=8, seed=1)
    tree = json.loads((folder / "dogs/annotations.json").read_text())
    for name in ("bccd", "my/coco", "my-data", "mine"):
        (folder / name / "annotations").mkdir(parents=True)
        for split in ("train", "val"):
            shutil.copytree(folder / "dogs/images", folder / name / split)
            (folder / name / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
    ours = folder / "my/coco"
    (ours / "val/000005.png").rename(ours / "val/dog.png")
    text = (ours / "annotations/instances_val.json").read_text().replace("000005.png", "dog.png")
    (ours / "annotations/instances_val.json").write_text(text)
    (folder / "run").mkdir()
    shutil.copy(SHIPPED, folder / "run/best.safetensors")
    shutil.copy(folder / "dogs/images/000005.png", folder / "photo.jpg")
    (folder / "shots").mkdir()
    shutil.copy(folder / "photo.jpg", folder / "shots")
    with write_mp4(folder / "clip.mp4", 5) as add:
        for shade in (0, 100, 200):
            add(np.full((64, 64, 3), shade, np.uint8))
    small = tiny("detr-r18")
    save_checkpoint(folder / "tiny.safetensors", small.model, small.card)
    write_faster_rcnn(folder / "faster_rcnn.safetensors", ds.load("sprint-dense-n").classes)
    return folder


@pytest.fixture
def known(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Names that the examples take as given; a copy of the world is the working directory."""
    shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("PIL.Image.Image.show", lambda *_: None)
    deformable = detector_of("sprint-deformable-n").trace(picture(), values=True)
    record = deformable.record("decoder.1.cross")
    assert isinstance(record, DeformableRecord)
    short = {key: value for key, value in TINY.items() if "recording" not in key}
    yield {
        **{"detector": ds.load("sprint-dense-n"), "record": record, "other": record, "level": 0},
        **{
            "queries": torch.tensor([0, 3]),
            "scores": torch.zeros(1),
            "array": np.zeros((32, 40, 3), np.uint8),
        },
        **{"SOURCE": SOURCE, "TINY": {**short, "train.epochs": 1}, "SHORT": {**short, "train.epochs": 1}},
    }


@pytest.mark.filterwarnings("ignore:OpenCV")  # supervision says so where it is absent
@pytest.mark.parametrize("page", sorted(page for page in PAGES if EXAMPLES.search(PAGES[page])))
def test_every_example_runs(page: str, known: dict[str, Any]) -> None:
    if page in ELSEWHERE:
        pytest.skip(ELSEWHERE[page])
    code = "\n".join(EXAMPLES.findall(PAGES[page]))
    for text, stand_in in STANDS_FOR.get(page, {}).items():
        assert text in code, f"{page} has no {text} any more"
        code = code.replace(text, stand_in)
    exec(compile(code, page, "exec"), known)
