"""`detrscope see` and its Python twin."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detrscope as ds
from detrscope.checkpoints.load import load_random_model
from detrscope.cli import main
from detrscope.commands import figure_files
from detrscope.commands.trace_provider import expand_trace_inputs
from detrscope.core.errors import UserError
from detrscope.core.trace_file import trace_bytes
from detrscope.inference import load_detector as detector_module
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine
from detrscope.trace_interface import Trace
from detrscope.views import VIEWS, features
from detrscope.views.options import ViewOptions
from tests.support.tiny_models import CLASSES, tiny_settings
from tests.support.traces import detector_of, picture

QUICK = ("detections", "mean")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return detector_of("detr-r18")


@pytest.fixture(autouse=True)
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_CHANNELS", 6)
    monkeypatch.setattr(features, "STRONGEST", 2)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture that is not square."""
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    Image.fromarray(picture().permute(1, 2, 0).numpy()).save(path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, detector: Detector | None, *arguments: object) -> int:
    """The exit code of the real entry point; the model is a tiny one, or not named."""

    def load(name: str, **_: object) -> Detector:
        assert name == "tiny" and detector is not None
        return detector

    model = [] if detector is None else ["--model", "tiny"]
    monkeypatch.setattr(detector_module, "load", load)
    monkeypatch.setattr(sys, "argv", ["detrscope", "see", *map(str, arguments), *model])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_no_two_images_share_a_folder(tmp_path: Path, detector: Detector) -> None:
    named = [tmp_path / folder / name for folder, name in (("a", "p.png"), ("b", "p.png"), ("c", "p-2.png"))]
    for path in named:
        path.parent.mkdir()
        path.touch()
    trace = replace(detector.trace(picture(), sites=[]), source=str(named[0]))
    found = [source for source, _ in expand_trace_inputs([*named, trace, picture(), picture()])]
    assert [source.stem for source in found] == ["p", "p-2", "p-2-2", "p-3", "image-5", "image-6"]
    assert [source.name for source in found][4:] == ["image 5", "image 6"]


def test_by_default_everything_is_in_one_folder(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    detector: Detector,
    photo: Path,
    tmp_path: Path,
) -> None:
    assert run(monkeypatch, detector, photo, "--out", tmp_path / "out", "--threshold", "0.0") == 0
    folder = tmp_path / "out" / "photo"
    apply = [n for n in VIEWS if not n.startswith("points") and n not in ("changes", "compare")]
    names = sorted([*(f"{n}.png" for n in apply), "metrics.csv", "photo.trace", "report.html", "shapes.txt"])
    assert sorted(p.name for p in folder.iterdir()) == names
    table = capsys.readouterr().out
    assert "left out: detr-r18 has no deformable attention at decoder.cross" in table
    assert "encoder.self" in table and "Concentration: an encoder token attends to" in table
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert {(r["kind"], r["layer"]) for r in rows} >= {("encoder.self", "1"), ("decoder.cross", "0")}
    shapes = (folder / "shapes.txt").read_text()
    assert "[1, 3, 53, 95]" in shapes and "backbone." not in shapes, "what the trace beside it holds"
    trace = Trace.load(folder / "photo.trace")
    assert trace.sites == trace.model_sites and not trace.features
    for name in apply:
        with Image.open(folder / f"{name}.png") as image:
            assert np.asarray(image).std() > 5, name


def test_trace_file_gives_the_same_figure_without_model(
    monkeypatch: pytest.MonkeyPatch, detector: Detector, photo: Path, tmp_path: Path
) -> None:
    common = ("--query", 3, "--view", "per-query", "--view", "heads", "--layer", 0, "--head", 2)
    assert run(monkeypatch, detector, photo, "--out", tmp_path / "a", "--trace", "full", *common) == 0
    file = tmp_path / "a" / "photo" / "photo.trace"
    assert run(monkeypatch, None, file, "--out", tmp_path / "b", *common) == 0
    made = sorted(p.name for p in (tmp_path / "b" / "photo").iterdir())
    assert made == ["heads.png", "per-query.png"]
    for name in made:
        first, second = (tmp_path / side / "photo" / name for side in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_folder_skips_and_names_unreadable_images(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    detector: Detector,
    photo: Path,
    tmp_path: Path,
) -> None:
    # Paths of tests may be long, and tables fold them.
    monkeypatch.setattr("detrscope.console.TABLE_WIDTH", 400)
    shutil.copy(photo, photo.parent / "second.png")
    (photo.parent / "torn.png").write_bytes(photo.read_bytes()[:300])
    common = ("--view", "mean", "--query", 1, "--format", "jpg", "--out", tmp_path / "out")
    assert run(monkeypatch, detector, photo.parent, *common) == 0
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == [
        "photo/mean.jpg",
        "second/mean.jpg",
    ]
    streams = capfd.readouterr()
    assert "traces of" not in streams.err, "none are written"
    assert "skipped: torn.png" in streams.err and "1 of 3 images were skipped" in streams.err
    assert str(photo) in streams.out
    assert run(monkeypatch, detector, photo.parent, *common, "--trace", "half") == 0
    told = re.search(r"traces of 3 images: about (\S+) MB", capfd.readouterr().err)
    kept = tmp_path / "out/photo/photo.trace"
    assert told and float(told[1]) == pytest.approx(3 * kept.stat().st_size / 1e6, rel=0.01)
    Image.fromarray(np.full((9, 9, 3), 90, np.uint8)).save(photo.parent / "small.png")
    at = ("--view", "encoder", "--point", "60,30", "--query", 1, "--out", tmp_path / "at")
    assert run(monkeypatch, detector, photo.parent, *at) == 0
    assert "skipped: small.png: point 60,30: is not on the image" in capfd.readouterr().err
    (photo.parent / "small.png").unlink()
    nothing = ("--view", "mean", "--threshold", 1, "--out", tmp_path / "out")
    assert run(monkeypatch, detector, photo.parent, *nothing) == 1
    assert "none of the 3 images could be drawn" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--view", "per-qery"), "view 'per-qery' is not known; did you mean 'per-query'?"),
        (("--layer", "2"), "layer 2: this trace has 2 layers, 0 to 1"),
        (("--query", "7"), "query 7: this trace has 7 queries, 0 to 6"),
        (("--point", "95,10"), "point 95,10: is not on the image; expected x 0 to 90 and y 0 to 50"),
        (("--point", "here"), "--point here: expected X,Y such as 120,80"),
        (("--view", "mean", "--threshold", "1"), "nothing scores 1 or more; the best is query"),
        (
            ("--view", "detections", "--head", "1"),
            "head: has no effect on detections; only these views use it: per-query",
        ),
        (
            ("--view", "per-query", "--query", "1", "--point", "1,1"),
            "points: has no effect on per-query",
        ),
        (("--view", "points", "--query", "1"), "detr-r18 has no deformable attention at decoder.cross"),
        (("--view", "compare", "--query", "1"), "nothing to compare with"),
        (("--view", "heads", "--against", "x.trace"), "against: has no effect on heads"),
        (
            ("--view", "heads", "--ground-truth", "coco:none"),
            "ground_truth: has no effect on heads; only these views use it: detections",
        ),
        (("--against", "missing.trace"), "missing.trace: no such trace file"),
        (("--features", "backbone.layer9.*"), "it has backbone.conv1, backbone.layer1.0.conv1 to backbone."),
        (("--head", "1", "--merge", "max"), "merge max: has no effect on one head (1)"),
        (
            ("--view", "heads", "--query", "1", "--point", "9,9"),
            "queries and points: heads shows one of them",
        ),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    detector: Detector,
    photo: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run(monkeypatch, detector, photo, "--out", tmp_path / "out", *arguments) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("detrscope:")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_large_traces_are_written_on_request_only(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    detector: Detector,
    photo: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(figure_files, "MAX_DEFAULT_MB", 0.01)
    with caplog.at_level("INFO", logger="detrscope"):
        (seen,) = ds.see(photo, detector, options=ViewOptions(threshold=0), out=tmp_path / "a")
        assert "traces are not written" in caplog.text and "the trace format to full or half" in caplog.text
        assert "photo.trace" not in seen.files and seen.files["shapes.txt"].is_file()
        caplog.clear()
        (seen,) = ds.see(
            photo, detector, options=ViewOptions(threshold=0), out=tmp_path / "b", trace_format="half"
        )
    assert seen.files["photo.trace"].is_file() and not [
        line for line in caplog.messages if not re.fullmatch(r"photo\.png: \d+ of \d+", line)
    ], "nothing but progress, of a slow machine"


def test_the_size_of_a_trace_is_known_before_it_is_written(detector: Detector, tmp_path: Path) -> None:
    trace = detector.trace(picture())
    for half in (False, True):
        size = trace.save(tmp_path / "a.trace", half=half).stat().st_size
        assert trace_bytes(trace, half=half) == pytest.approx(size, rel=0.02)


def test_views_without_detections_are_drawn_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    detector: Detector,
    photo: Path,
    tmp_path: Path,
) -> None:
    assert run(monkeypatch, detector, photo, "--out", tmp_path / "out", "--threshold", "1") == 0
    written = {p.name for p in (tmp_path / "out" / "photo").iterdir()}
    assert written == {
        "encoder.png",
        "features.png",
        "channels.png",
        "shapes.txt",
        "photo.trace",
        "report.html",
    }
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "nothing scores 1" in line]
    assert "the best is query" in line and "left out: detections, per-query, mean, heads" in line


@pytest.mark.parametrize("encoder_layers", [0, 1])
def test_point_without_deformable_encoder_shows_a_query(
    encoder_layers: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny_settings("sprint-deformable-n")
    settings["encoder"] = {**settings["encoder"], "layers": encoder_layers}  # softmax attention, or none
    loaded = load_random_model("sprint-deformable-n", settings, CLASSES)
    detector = Detector(TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.float32), loaded.card)
    options = ViewOptions(points=((20.0, 20.0),), threshold=0)
    with caplog.at_level("WARNING", logger="detrscope"):
        (seen,) = ds.see(picture(), detector, options=options)
    assert {"heads", "points", "points-heads", "points-layers"} <= set(seen.figures)
    for name in ("points", "points-heads", "points-layers"):
        assert "query" in seen.figures[name].heading
        assert "a query is shown instead" in seen.figures[name].caption
    assert ("token" in seen.figures["heads"].heading) == bool(encoder_layers)
    assert ("has no encoder attention at a point" in caplog.text) == (encoder_layers == 0)


def test_video_and_missing_file_are_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], detector: Detector, tmp_path: Path
) -> None:
    film = tmp_path / "a.mp4"
    film.write_bytes(b"x")
    assert run(monkeypatch, detector, film) == 2
    assert "is a video; see takes images" in capfd.readouterr().err
    assert run(monkeypatch, detector, tmp_path / "no.png") == 2
    assert "no.png: no such file or folder" in capfd.readouterr().err
    (tmp_path / "broken.trace").write_bytes(b"no trace")
    assert run(monkeypatch, None, tmp_path / "broken.trace") == 2
    assert "broken.trace: not a trace" in capfd.readouterr().err
    needless = "has no effect on traces, which are drawn without a model"
    for model, option in (
        (detector, ()),
        (None, ("--weights", "random")),
        (None, ("--features", "backbone.*")),
        (None, ("--device", "cpu")),
    ):
        assert run(monkeypatch, model, tmp_path / "broken.trace", *option) == 2
        assert f"{option[0][2:] if option else 'model'}: {needless}" in capfd.readouterr().err


def test_python_function_keeps_figures_and_trace_in_memory(detector: Detector) -> None:
    (seen,) = ds.see(picture(), detector, views=QUICK, options=ViewOptions(queries=(2, 5)))
    assert list(seen.figures) == list(QUICK) and not seen.files
    assert "mean of 2 queries (number 2, 5)" in seen.figures["mean"].caption
    assert isinstance(seen.trace, Trace)
    again = ds.see([seen.trace], views=("mean",), options=ViewOptions(queries=(2, 5)))[0]
    assert (again.figures["mean"].pixels() == seen.figures["mean"].pixels()).all()


def test_only_images_are_traced_again_for_gradients(detector: Detector, tmp_path: Path) -> None:
    options = ViewOptions(queries=(2, 5))
    (seen,) = ds.see(picture(), detector, views=("relevance", "per-query"), options=options)
    about = seen.figures["relevance"].caption
    assert "equations 5 to 10" in about and "explain=" not in about
    assert seen.trace is not None and not seen.trace.gradients
    assert not any(record.value is not None for record in seen.trace.records.values())
    (again,) = ds.see(seen.trace, views=("relevance",), options=options)
    assert "trace with explain=[2, 5]" in again.figures["relevance"].caption


def test_two_models_are_compared_on_the_same_image(detector: Detector, tmp_path: Path) -> None:
    other = detector_of("sprint-dense-n")
    (seen,) = ds.see(
        picture(), detector, views=("compare",), options=ViewOptions(queries=(2,)), against=other
    )
    caption = seen.figures["compare"].caption
    assert "first: detr-r18" in caption and "second: sprint-dense-n" in caption
    small = other.trace(torch.zeros(3, 20, 20, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"cannot compare an image of 90 x 50 pixels with one of 20 x 20"):
        ds.see(picture(), detector, views=("compare",), options=ViewOptions(queries=(2,)), against=small)


def test_named_features_are_kept_in_the_trace(detector: Detector, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"views": "channels", "out": tmp_path, "trace_format": "half"}
    (seen,) = ds.see(picture(), detector, features="backbone.layer2.*", **arguments)
    kept = Trace.load(seen.files["image-1.trace"]).features
    assert kept and all(site.startswith("backbone.layer2.") for site in kept)
    assert seen.trace is None and not seen.figures


def test_help_is_fast_and_names_every_view() -> None:
    code = (
        "import sys; sys.argv = ['detrscope', 'see', '--help']\n"
        "from detrscope.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words = " ".join(done.stdout.split())
    assert words.endswith("set()"), words[-200:]
    assert all(f"{name} ({view.shows})" in words for name, view in VIEWS.items())


def test_json_has_the_numbers_of_every_drawn_view(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    detector: Detector,
    photo: Path,
    tmp_path: Path,
) -> None:
    arguments = (photo, "--json", "--threshold", 0, "--out", tmp_path)
    assert run(monkeypatch, detector, *arguments) == 0
    (result,) = json.loads(capsys.readouterr().out)
    drawn = [name for name in VIEWS if name in result["files"]]
    assert result["source"] == str(photo) and sorted(result["views"]) == sorted(drawn) and len(drawn) == 12
    assert set(result["left_out"]) == set(VIEWS) - set(drawn)
    assert all(view["caption"] and len(view) > 2 for view in result["views"].values())


def test_edits_give_before_and_after(
    monkeypatch: pytest.MonkeyPatch,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    detector: Detector,
) -> None:
    arguments = [photo, "--edit", "decoder.*.cross: heads 0,1 x0", "--hide", "5,5,40,30", "--threshold", 0]
    assert run(monkeypatch, detector, *arguments, "--view", "changes", "--out", tmp_path / "a") == 0
    shown = capsys.readouterr().out
    assert "before and after:" in shown and "IoU" in shown
    folder = tmp_path / "a" / "photo"
    assert (folder / "changes.png").exists()
    saved = json.loads((folder / "edits.json").read_text())["edits"]
    assert saved == ["decoder.*.cross: heads 0,1 x0", "*: hide region 5,5,40,30"]
    again = [photo, "--edits", folder / "edits.json", "--threshold", 0, "--view", "changes", "--json"]
    assert run(monkeypatch, detector, *again, "--out", tmp_path / "b") == 0
    changes = json.loads(capsys.readouterr().out)[0]["views"]["changes"]["changes"]
    expected = detector.trace(photo, edits=saved).detections(0.0)
    after = sorted((c["after"]["query"], c["after"]["score"]) for c in changes if c["after"])
    found = zip(expected.query_ids.tolist(), expected.scores.tolist(), strict=True)
    assert after == [(query, pytest.approx(score, abs=1e-4)) for query, score in sorted(found)]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--edit", "decoder.*.cross heads 2 x0"], "expected SITE: WHAT"),
        (["--edit", "decoder.9.cross: x0"], "site 'decoder.9.cross' is not in this model; did you mean"),
        (["--edit", "decoder.*.cross: heads 7 x0"], "head 7 is outside 0..3"),
        (["--hide", "1,2,3"], "hide: region '1,2,3': expected four numbers"),
        (["--hide", "500,500,600,600"], "the region lies outside of the image"),
        (["--edits", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--swap", "decoder.0.cross from nowhere.trace"], "nowhere.trace: no such trace file"),
    ],
)
def test_wrong_edits_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    detector: Detector,
    arguments: list[str],
    problem: str,
) -> None:
    assert run(monkeypatch, detector, photo, *arguments, "--out", tmp_path / "seen") == 2
    assert problem in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "seen").exists()


def test_traces_take_no_edits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], detector: Detector
) -> None:
    path = detector.trace(picture(), sites=[]).save(tmp_path / "a.trace")
    assert run(monkeypatch, None, path, "--edit", "decoder.*.cross: x0", "--out", tmp_path / "seen") == 2
    assert "edits: has no effect on traces" in capsys.readouterr().err
