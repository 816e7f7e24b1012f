"""The demo at its smallest, interrupted and run again; and the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from PIL import Image

import detrscope as ds
from detrscope.checkpoints.load import load_model
from detrscope.commands import demo as module
from detrscope.core.errors import UserError
from detrscope.data.open_dataset import open_dataset
from detrscope.families import VARIANTS
from detrscope.training.time_budget import steps_within
from tests.conftest import ROOT

WEIGHTS = ROOT / "src" / "detrscope" / "weights"
SMALLEST = module.DemoSize(16, 4, 2, 60.0, 4, 2, {"train.evaluate_every": 2, "train.recording.every": 2})


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path_factory.getbasetemp() / "demo-cache"))


@pytest.mark.parametrize(("each", "steps"), [(0.1, 1300), (0.2, 1000), (0.3, 800)])
def test_steps_fit_into_the_time_budget(each: float, steps: int) -> None:
    assert steps_within(200, each, most=1300, least=800) == steps


def test_demo_resumes_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUICK", SMALLEST)
    real = module._film

    def interrupted(*args: object) -> list[Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_film", interrupted)
    out, tmp_path = tmp_path, tmp_path / "demo"  # one of its own
    with pytest.raises(KeyboardInterrupt):
        module.demo(tmp_path, quick=True)
    with pytest.raises(UserError, match=r"holds a demo with other options; choose a new out folder"):
        module.demo(tmp_path, quick=False)
    (out / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and not a demo"):
        module.demo(out, quick=True)
    before = (tmp_path / "run" / "metrics.csv").read_text()
    assert not (tmp_path / "index.html").exists()
    monkeypatch.setattr(module, "_film", real)
    page = module.demo(tmp_path, quick=True)
    assert (tmp_path / "run" / "metrics.csv").read_text() == before, "it trained again"
    html = page.read_text()
    films = sorted(path.name for path in (tmp_path / "films").glob("*.mp4"))
    assert len(films) == 2 and films[1] == "final.mp4" and films[0].endswith("-queries.mp4")
    (seen,) = (tmp_path / "seen").iterdir()
    assert list(seen.glob("*.trace")) and "an encoder token attends to" in html
    for name in (
        *(f"films/{film}" for film in films),
        *(f"seen/{seen.name}/{figure}.png" for figure in module.FIGURES),
        "films/parts.png",
        "run/curves.png",
        *(f"detections/{p.name}" for p in (tmp_path / "detections").iterdir()),
    ):
        assert name in html and (tmp_path / name).stat().st_size > 1000, name
    assert "http://" not in html and "https://" not in html, "the page must not fetch anything"
    with av.open(str(tmp_path / "films" / "final.mp4")) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (1440, 810)
    with Image.open(next((tmp_path / "detections").iterdir())) as picture:
        assert min(picture.size) >= 400
    lines = module.demo_summary(page)
    assert "val/AP" in lines[0] and "run.html" in lines[1] and "report.html" in lines[1]
    assert f"detrscope explore {page.parent / 'run'}" in lines[2]


def test_shipped_model_is_small_and_accurate() -> None:
    file = WEIGHTS / str(VARIANTS["sprint-dense-n"].shipped)
    assert file.stat().st_size <= 8 * 2**20
    loaded = load_model("sprint-dense-n")
    assert loaded.card.config["encoder"]["layers"] >= 1, "both kinds of attention must be there to be seen"
    on_file = json.loads((WEIGHTS / "metrics.json").read_text())
    assert on_file["val/AP"] == pytest.approx(loaded.card.metrics["AP"], abs=1e-6)
    evaluation = ds.evaluate("sprint-dense-n", "drawn-dogs:count=1,val=40,test=1,size=128", batch_size=8)
    assert evaluation.AP is not None and evaluation.AP > 0.6


def test_default_model_detects_dogs_not_cats() -> None:
    detector = ds.load("sprint-dense-n", device="cpu")
    dataset = open_dataset("drawn-dogs:count=1,val=40,test=1,size=128", "val")
    right = 0
    for image in dataset.images:
        found = detector.detect(image.path, threshold=0.4)
        assert set(found.names) <= {"dog"} and set(found.labels.tolist()) <= set(dataset.classes.ids)
        right += len(found) == len(dataset.annotations[image.id])
    assert right >= 28, f"the right number of dogs in {right} of 40 pictures only"
