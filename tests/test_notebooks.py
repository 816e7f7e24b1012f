"""The notebooks run from top to bottom, and are committed without outputs and without traces of a machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import ROOT
from tests.support.notebooks import outputs, run_notebook

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
HOMEWORK, DOGS, POINTS, CVAT = NOTEBOOKS
MACHINE = re.compile(
    r"(?<![\w.~/:])/(?:home|root|Users|work|tmp|usr|opt|mnt|content|var)/|localhost|127\.0\.0\.1"
)
MOST = 3_000_000  # characters of all outputs of a notebook


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a notebook in an empty folder."""
    monkeypatch.setenv("DETRSCOPE_CACHE", str(cache))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"), prepend=":")
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def run(path: Path, **parameters: Any) -> Any:
        notebook = run_notebook(path, tmp_path, **parameters)
        shown = [*outputs(notebook, "text/html"), *outputs(notebook, "image/png")]
        assert shown and sum(map(len, shown)) < MOST
        assert "tensor(" not in "".join(outputs(notebook, "text/plain"))
        return notebook

    return run


def test_homework_answers_with_numbers(run: Any) -> None:
    notebook = run(HOMEWORK, PUBLISHED=False, SIDE=256)
    printed = "".join(outputs(notebook, "stdout"))
    assert re.search(r"feature map of the ResNet +\[1, 2048, 8, 11\]", printed)
    assert re.search(r"the same as maps of the image +\[8, 11, 8, 11\]", printed)
    for answer in ("Concentration:", "Distance:", "In the box:", "without head 0 of every"):
        assert answer in printed
    assert printed.count("decoder.cross ") == 15 and printed.count("encoder.self ") == 5
    assert len(outputs(notebook, "image/png")) == 3


def test_dogs_are_filmed_while_they_are_learned(run: Any, tmp_path: Path) -> None:
    notebook = run(DOGS, MINUTES=0.05, IMAGES=48, PROBES=2, SNAPSHOTS=3)
    assert any("<video" in html for html in outputs(notebook, "text/html"))
    printed = "".join(outputs(notebook, "stdout"))
    assert re.search(r"attention on +step 0 +step \d+", printed) and re.search(r"(?m)^muzzle +\d", printed)
    assert (tmp_path / "dogs-run" / "best.safetensors").is_file()


def test_muting_sampling_points_changes_the_score(run: Any) -> None:
    notebook = run(POINTS, PUBLISHED=False, MINUTES=0.1, IMAGES=64)
    printed = "".join(outputs(notebook, "stdout"))
    scores = {
        name.strip(): (float(before), float(after))
        for name, before, after in re.findall(r"(?m)^(.+?) +score ([\d.]+) -> ([\d.]+) ", printed)
    }
    assert scores["nothing muted"][0] == scores["nothing muted"][1]
    assert scores["without all"][1] != scores["without all"][0]  # less only once the model has learned
    assert {"without head 3", "without level 1", "without layer 2", "without 4 heaviest points"} <= set(
        scores
    )
    assert len(outputs(notebook, "image/png")) == 3


def test_cvat_export_becomes_a_model(run: Any, tmp_path: Path) -> None:
    notebook = run(CVAT, PUBLISHED=False, MINUTES=0.1, IMAGES=64)
    printed, logged = ("".join(outputs(notebook, stream)) for stream in ("stdout", "stderr"))
    assert re.search(r"train: 64 images, \d+ boxes: large dog \d+, small dog \d+", printed)
    assert "0 errors, 0 warnings" in printed
    assert "loaded 238 tensors" in logged and "reset to random weights: queries.class_head.weight" in logged
    (tables,) = [html for html in outputs(notebook, "text/html") if "classes, most boxes first" in html]
    assert "large dog" in tables and "small dog" in tables
    assert (tmp_path / "my-model" / "best.safetensors").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebooks_have_no_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(nbformat.from_dict(notebook))
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert not MACHINE.findall(text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_first_cell_of_code_installs_the_package(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    first = next(cell for cell in cells if cell.cell_type == "code")
    assert "%pip install -q detrscope" in first.source


def test_model_of_the_homework_is_that_of_the_example() -> None:
    example = (ROOT / "examples" / "minimal_detr.py").read_text(encoding="utf-8")
    model = example[example.index("class MinimalDETR") : example.index("def main()")].strip()
    assert model in [cell.source for cell in nbformat.read(HOMEWORK, as_version=4).cells]


def test_page_lists_the_notebooks() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"notebooks/([\w-]+\.ipynb)", page))) == [path.name for path in NOTEBOOKS]
