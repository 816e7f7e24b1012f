"""Compare: a detection transformer and Faster R-CNN on the same images, down to the files."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from detrscope.checkpoints.native import save_checkpoint
from detrscope.cli import main
from detrscope.commands.compare import compare
from detrscope.commands.evaluate import evaluate
from detrscope.core.classes import ClassTable
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.probe import Probe
from detrscope.core.types import Outputs
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.coco_ap import average_precision
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LoadOptions
from detrscope.inference.torch_engine import TorchEngine
from detrscope.inference.torchvision_detector import load_torchvision
from tests.support.datasets import MakeCoco, box
from tests.support.faster_rcnns import write_faster_rcnn
from tests.support.square_detector import IDS, NAMES, WORLD, SeesSquares, card, write_world
from tests.support.tiny_models import tiny

CPU = LoadOptions(device="cpu")


def perfect() -> Detector:
    """A model that finds every rectangle of the world."""
    return Detector(TorchEngine(SeesSquares()), card())  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path / "world")


@pytest.fixture
def detr(tmp_path: Path) -> Path:
    loaded = tiny("detr-r18")
    path = tmp_path / "detr.safetensors"
    small = replace(loaded.card, classes=ClassTable(IDS, NAMES), preprocessing=Preprocessing(64, 96))
    save_checkpoint(path, loaded.model, small)
    return path


@pytest.fixture
def faster_rcnn(tmp_path: Path) -> Path:
    return write_faster_rcnn(tmp_path / "frcnn.safetensors", ClassTable(IDS, NAMES))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["detrscope", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_command_writes_tables_and_pictures(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    world: Path,
    detr: Path,
    faster_rcnn: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    models = ["--model", detr, "--model", faster_rcnn, "--device", "cpu"]
    arguments = ["--data", world, "--threshold", 0.3, "--pictures", 2, "--out", out]
    assert run(monkeypatch, "compare", *models, *arguments) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("detr-r18", "fasterrcnn-r18-fpn", "NMS removes", *NAMES))
    tree = json.loads((out / "compare.json").read_text())
    assert [m["kind"] for m in tree["models"]] == ["set prediction", "proposals and NMS"]
    assert tree["images"] == tree["objects"] == len(WORLD)
    for model in tree["models"]:
        assert [row["id"] for row in model["evaluation"]["per_class"]] == list(IDS)
        assert model["timing_ms"]["fastest"] <= model["timing_ms"]["median"] <= model["timing_ms"]["slowest"]
    (difference,) = tree["differences"]
    ours, theirs = (model["evaluation"]["AP"] for model in tree["models"])
    assert (difference["first"], difference["second"]) == (0, 1)
    assert difference["AP"]["value"] == pytest.approx(ours - theirs) and "significant" in printed
    with open(out / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["id"]) for row in rows] == [
        (name, str(i)) for i in IDS for name in ("detr-r18", "fasterrcnn-r18-fpn")
    ]
    assert tree["pictures"] == sorted(path.name for path in out.glob("*.png")) and len(tree["pictures"]) == 2


def test_ap_is_that_of_evaluate_for_both_kinds(world: Path, detr: Path, faster_rcnn: Path) -> None:
    ours, theirs = compare([detr, faster_rcnn], data=world, load_options=CPU).models
    assert ours.evaluation == evaluate(detr, world, load_options=CPU)
    detector, dataset = load_torchvision(faster_rcnn, device="cpu"), open_dataset(world, "val")
    assert detector is not None
    results = []
    for image in dataset.images:
        found = detector.detect(image.path, threshold=0.0)
        for (x0, y0, x1, y1), score, label in zip(
            found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            bbox = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": image.id, "category_id": label, "bbox": bbox, "score": score})
    assert theirs.evaluation == average_precision(dataset.coco_json(), results)


def test_a_perfect_model_finds_what_another_misses(world: Path, faster_rcnn: Path) -> None:
    comparison = compare([perfect(), faster_rcnn], data=world, threshold=0.9, load_options=CPU)
    best, other = comparison.models
    assert best.evaluation is not None and pytest.approx(1, rel=1e-12) == best.evaluation.AP50
    assert (best.found, best.extra) == (len(WORLD), 0)
    assert other.found is not None
    assert comparison.only == ((0, len(WORLD) - other.found), (0, 0))
    assert (best.boxes.candidates, best.boxes.above, best.boxes.removed) == (2 * len(WORLD), len(WORLD), 0)
    assert other.boxes.above - other.boxes.removed - other.boxes.cut == other.boxes.left


def test_ap_with_nms_is_that_of_suppressed_predictions(world: Path, faster_rcnn: Path) -> None:
    twice = perfect()
    first = twice.engine.predict

    def doubled(images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        found = first(images, padding)
        return Outputs(found.logits.repeat(1, 1, 2, 1), found.boxes_cxcywh.repeat(1, 1, 2, 1))

    twice.engine.predict = doubled  # type: ignore[method-assign]
    ours, theirs = compare([twice, faster_rcnn], data=world, load_options=CPU).models
    assert ours.boxes.left == 2 * len(WORLD) and ours.boxes.duplicates == len(WORLD)
    assert ours.evaluation is not None and ours.AP_with_nms is not None and theirs.evaluation is not None
    alone, _ = compare([perfect(), perfect()], data=world).models
    assert alone.evaluation is not None
    assert ours.AP_with_nms == alone.evaluation.AP > 0
    assert theirs.AP_with_nms == pytest.approx(theirs.evaluation.AP, abs=1e-6)


def test_duplicates_of_a_set_prediction_are_counted_and_kept(world: Path) -> None:
    comparison = compare([perfect(), perfect()], data=world, threshold=0.0)
    boxes = comparison.models[0].boxes
    assert boxes.left == 2 * len(WORLD)  # the sure query and the unsure one
    assert boxes.removed == 0 and boxes.left - boxes.duplicates >= len(WORLD)
    assert [m.name for m in comparison.models] == ["squares", "squares #2"]


def test_images_without_ground_truth_are_compared_by_partners(
    world: Path, faster_rcnn: Path, tmp_path: Path
) -> None:
    images = [world / "images/0.png", world / "images/1.png"]
    comparison = compare(
        [perfect(), perfect(), faster_rcnn], images, threshold=0.9, out=tmp_path / "out", load_options=CPU
    )
    assert comparison.objects is None and comparison.models[0].evaluation is None
    assert comparison.only[0][:2] == (0, 0)
    assert comparison.only[0][2] == 2  # the rectangles, which random weights do not find
    assert comparison.pictures == ("compare-0.png", "compare-1.png")
    assert not (tmp_path / "out/compare.csv").exists()
    with Image.open(tmp_path / "out/compare-0.png") as picture:
        width = picture.width
    assert width == 3 * 448 + 2 * 8  # 64 pixels enlarged seven times, no column of ground truth


def test_named_images_of_the_data_are_drawn_with_ground_truth(world: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.png"
    Image.new("RGB", (64, 48), (0, 0, 255)).save(elsewhere)
    comparison = compare(
        [perfect(), perfect()], [str(world / "images/3.png"), elsewhere], data=world, out=tmp_path / "out"
    )
    assert comparison.images == len(WORLD)  # the other image counts in no table
    assert comparison.pictures == ("compare-3.png", "compare-elsewhere.png")
    widths = []
    for name in comparison.pictures:
        with Image.open(tmp_path / "out" / name) as picture:
            widths.append(picture.width)
    assert widths == [3 * 448 + 2 * 8, 2 * 448 + 8]


def test_detections_on_crowds_are_not_extra(make_coco: MakeCoco) -> None:
    rows = [box(1, 900, (0, 0, 40, 30), iscrowd=1)]
    folder = make_coco(
        rows, 1, split="val", categories=[{"id": i, "name": n} for i, n in zip(IDS, NAMES, strict=True)]
    )
    Image.new("RGB", (40, 30), (0, 0, 255)).save(folder / "val/1.png")
    on_crowd = compare([perfect(), perfect()], data=folder)
    assert (on_crowd.models[0].boxes.left, on_crowd.models[0].extra, on_crowd.objects) == (1, 0, 0)
    Image.new("RGB", (40, 30), (255, 0, 0)).save(folder / "val/1.png")  # of another class than the crowd
    assert compare([perfect(), perfect()], data=folder).models[0].extra == 1


def test_names_with_weights(world: Path, faster_rcnn: Path) -> None:
    models = ["sprint-dense-n=random", f"fasterrcnn-r18-fpn={faster_rcnn}"]
    comparison = compare(models, [world / "images/0.png"], load_options=CPU)
    assert [m.variant for m in comparison.models] == ["sprint-dense-n", "fasterrcnn-r18-fpn"]
    assert "random" in comparison.models[0].source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "DETR", "--data", "WORLD"], "expected two or more to compare, found 1"),
        (["-m", "DETR", "-m", "RCNN"], "give images, or a dataset with --data"),
        (["-m", "DETR", "-m", "fasterrcnn-r5O-fpn", "--data", "WORLD"], "did you mean 'fasterrcnn-r50-fpn'?"),
        (["-m", "DETR", "-m", "detr-r5O", "--data", "WORLD"], "did you mean 'detr-r50'?"),
        (["-m", "DETR", "-m", "none.pth", "--data", "WORLD"], "none.pth"),
        (["-m", "DETR", "-m", "other.pth", "--data", "WORLD"], "other.pth: not weights of any known family"),
        (
            ["-m", "DETR", "-m", "fasterrcnn-r50-fpn=other.pth", "--data", "WORLD"],
            "not weights of torchvision's",
        ),
        (["-m", "DETR", "-m", "RCNN", "clip.mp4"], "clip.mp4"),
        (["-m", "DETR", "-m", "RCNN", "--data", "WORLD", "--threshold", "2"], "threshold 2"),
        (
            ["-m", "DETR", "-m", "RCNN", "--data", "STRANGE"],
            "fasterrcnn-r18-fpn: the model has no class for 1",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    world: Path,
    detr: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    classes = ClassTable(IDS, NAMES if "STRANGE" not in arguments else ("ruby", "leaf", "emu"))
    rcnn = write_faster_rcnn(tmp_path / "frcnn.safetensors", classes)
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    places = {"WORLD": world, "STRANGE": world, "DETR": detr, "RCNN": rcnn}
    filled = [str(places.get(argument, argument)) for argument in arguments]
    monkeypatch.chdir(tmp_path)
    assert (
        run(monkeypatch, "compare", *filled, "--out", "out", "--log-level", "error", "--device", "cpu") == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("detrscope: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()
