"""Errors of a model on a dataset: every one is counted, and mending them gives AP back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.ops import box_iou
from typer.testing import CliRunner

import detrscope as ds
from detrscope.checkpoints.load import load_model
from detrscope.cli.app import app
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.verdicts import Verdict
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.bootstrap import Interval, ap_difference
from detrscope.evaluation.coco_ap import average_precision
from detrscope.evaluation.error_types import SUSPECT_SCORE, TIDE, error_types
from detrscope.explain.why import Why, explain_errors
from detrscope.inference.export.onnx_graph import build_onnx
from detrscope.inference.onnx_engine import OnnxEngine, read_metadata
from detrscope.inference.openvino_engine import OpenVinoEngine, openvino_of_onnx

SOURCE = "drawn-dogs:count=4,val=40,test=2,size=128"


@pytest.fixture(scope="module")
def found() -> Why:
    return explain_errors(ds.load("sprint-dense-n", device="cpu"), open_dataset(SOURCE, "val"), threshold=0.3)


def test_ap_is_that_of_evaluate(found: Why) -> None:
    assert found.evaluation.AP == ds.evaluate("sprint-dense-n", SOURCE, split="val").AP
    assert found.images == 40 and found.objects == found.evaluation.boxes


def test_missed_and_false_are_those_of_the_operating_point(found: Why) -> None:
    """Precision and recall at the last right detection above the threshold, as `evaluate` has them."""
    points = found.evaluation.thresholds.all_classes.points()
    at = min((p for p in points if p.threshold >= 0.3), key=lambda p: p.threshold)
    missed = sum(verdict.kind == "missed" for verdict in found.verdicts)
    false = sum(v.kind == "false" and (v.score or 0.0) >= at.threshold for v in found.verdicts)
    right = found.objects - missed
    assert right / found.objects == pytest.approx(at.recall)
    assert right / (right + false) == pytest.approx(at.precision)


def test_mending_everything_leaves_nothing_to_gain(found: Why) -> None:
    """With all missed objects added and all false detections removed AP at .5 is 1, which the stages add up towards."""
    assert sum(cost.missed + cost.false for cost in found.costs) == len(found.verdicts) > 0
    truth = open_dataset(SOURCE, "val").coco_json()
    gone = {(v.image_id, round(v.score or 0, 6)) for v in found.verdicts if v.kind == "false"}
    mended = [
        row
        for row in found.results
        if row["score"] >= 0.3 and (row["image_id"], round(row["score"], 6)) not in gone
    ]
    mended += [
        {"image_id": v.image_id, "category_id": 1, "bbox": _xywh(v), "score": 1.0}
        for v in found.verdicts
        if v.kind == "missed"
    ]
    assert pytest.approx(1) == average_precision(truth, mended).AP50
    assert all(cost.ap50 >= 0 for cost in found.costs)


def _xywh(verdict: Verdict) -> list[float]:
    x0, y0, x1, y1 = verdict.box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def test_each_stage_that_costs_ap_gets_advice(found: Why) -> None:
    dear = [cost.stage for cost in found.costs if cost.ap >= 0.001 or cost.ap50 >= 0.001]
    assert [line.partition(" (")[0] for line in found.advice] == dear
    json.dumps(found.to_json())


def test_edits_that_remove_duplicates_do() -> None:
    """With the edit the query no longer detects the object, and the one that it repeated still does."""
    detector = ds.load("sprint-dense-n", device="cpu")
    why = explain_errors(detector, open_dataset(SOURCE, "val"), threshold=0.2)
    proved = [verdict for verdict in why.verdicts if verdict.edit]
    assert proved and all(verdict.stage == "duplicate" for verdict in proved)
    for verdict in proved:
        for edits, on_it in (([], {verdict.query, verdict.repeats}), ([verdict.edit], {verdict.repeats})):
            found = detector.edited(edits).detect(verdict.image, threshold=0.2)
            overlaps = box_iou(found.boxes_xyxy, torch.tensor([verdict.object_xyxy]))[:, 0]
            assert on_it == set(found.query_ids[overlaps >= 0.5].tolist()) & {verdict.query, verdict.repeats}


def test_kinds_of_errors_agree_with_ap(found: Why) -> None:
    truth = open_dataset(SOURCE, "val").coco_json()
    types = error_types(truth, found.results, 0.3)
    assert types.interval.value == pytest.approx(found.evaluation.AP)
    assert types.interval.low < found.evaluation.AP < types.interval.high  # type: ignore[operator]
    assert set(types.tide) == set(TIDE.values()) and types.classes == ("dog", "nothing")
    annotated = sum(types.confusion[0])
    assert annotated == found.objects and types.confusion[0][0] == found.objects - sum(
        verdict.kind == "missed" for verdict in found.verdicts
    )
    assert sum(part.count for part in types.slices if part.by == "number of objects") == found.images
    assert sum(count for *_, count in types.bins) == len(found.results)
    json.dumps(types.to_json())


def made_results() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of two classes in 20 images, and results with errors of every kind."""
    draw = random.Random(0)
    categories = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
    images = [{"id": i, "file_name": f"{i}.png", "width": 500, "height": 500} for i in range(1, 21)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, 21):
        for place in range(4):
            own = draw.choice([1, 7])
            box = [100 * place + draw.randrange(10), draw.randrange(300)]
            box += [60 + draw.randrange(30), 60 + draw.randrange(30)]
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": own, "bbox": box}
            annotations.append({**row, "area": box[2] * box[3], "iscrowd": 0})
            kind, score = draw.randrange(8), round(draw.uniform(0.05, 1), 3)
            if kind == 0:
                continue
            shifted = [box[0] + 0.5 * box[2], *box[1:]] if kind in (1, 3) else box
            label = 8 - own if kind in (2, 3) else own
            found = {"image_id": image, "category_id": label, "bbox": shifted, "score": score}
            results.append(found)
            if kind == 4:
                results.append({**found, "score": round(score * 0.9, 3)})
        if image % 3 == 0:
            score = round(draw.uniform(0.3, 1), 3)
            results.append({"image_id": image, "category_id": 1, "bbox": [10, 420, 40, 40], "score": score})
    return {"images": images, "annotations": annotations, "categories": categories}, results


def test_tide_is_tidecvs() -> None:
    """The numbers that tidecv 1.0.1 gives for these results: `TIDE().evaluate(...).fix_main_errors()`."""
    types = error_types(*made_results(), 0.3)
    expected = {
        "wrong class": 15.017327743697983,
        "badly placed": 15.099323701452612,
        "wrong class and badly placed": 2.66014680247628,
        "duplicate": 1.4576320352985341,
        "on nothing": 1.4245087557529459,
        "missed": 10.106885688568859,
    }
    assert {name: 100 * value for name, value in types.tide.items()} == pytest.approx(expected, abs=1e-9)


def test_sizes_count_what_is_found_and_what_is_not(found: Why) -> None:
    types = error_types(open_dataset(SOURCE, "val").coco_json(), found.results, 0.3)
    missed = [verdict for verdict in found.verdicts if verdict.kind == "missed"]
    assert sum(b.missed for b in types.sizes) == len(missed)
    assert (
        sum(b.found for b in types.sizes) == sum(b.right for b in types.sizes) == found.objects - len(missed)
    )
    assert sum(b.wrong for b in types.sizes) == len(found.verdicts) - len(missed)
    for verdict in missed:
        x0, y0, x1, y1 = verdict.box_xyxy
        side = ((x1 - x0) * (y1 - y0)) ** 0.5
        assert max((b for b in types.sizes if b.side <= side), key=lambda b: b.side).missed > 0


def test_slices_have_the_ap_of_their_images() -> None:
    truth, results = made_results()
    sizes = {
        1: (100, 300),
        2: (400, 250),
        3: (250, 400),
        4: (1500, 1000),
    }  # the first images; others are 500 x 500
    for image in truth["images"]:
        image["width"], image["height"] = sizes.get(image["id"], (500, 500))
    for by, name, ids in (
        ("pixels", "under 0.1 megapixels", {1}),
        ("pixels", "0.1 to 0.3 megapixels", {2, 3, *range(5, 21)}),
        ("pixels", "1 megapixel or more", {4}),
        ("shape", "tall: under 3:4", {1, 3}),
        ("shape", "wide: from 4:3", {2, 4}),
        ("shape", "about square", set(range(5, 21))),
        ("number of objects", "2 to 9 objects", set(range(1, 21))),
    ):
        (part,) = [p for p in error_types(truth, results, 0.3).slices if (p.by, p.name) == (by, name)]
        part_of = {
            **truth,
            "images": [i for i in truth["images"] if i["id"] in ids],
            "annotations": [a for a in truth["annotations"] if a["image_id"] in ids],
        }
        ap = average_precision(part_of, [r for r in results if r["image_id"] in ids]).AP
        assert part.count == len(ids) and pytest.approx(ap) == part.AP, name


def test_planted_label_errors_are_suspected() -> None:
    """Boxes taken out of the annotations, and classes changed in them, are what is suspected, and nothing else."""
    truth, _ = made_results()
    results = [
        {**{key: a[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9 - 0.001 * a["id"]}
        for a in truth["annotations"]
    ]
    planted = {3: "wrong class", 17: "missing annotation", 40: "wrong class", 41: "missing annotation"}
    kept = []
    for annotation in truth["annotations"]:
        if planted.get(annotation["id"]) == "wrong class":
            annotation["category_id"] = 8 - annotation["category_id"]
        if planted.get(annotation["id"]) != "missing annotation":
            kept.append(annotation)
    suspected = error_types({**truth, "annotations": kept}, results, 0.3).suspected
    boxes = {tuple(map(float, r["bbox"])): n for n, r in enumerate(results, start=1)}
    assert [(boxes[one.bbox_xywh], one.kind) for one in suspected] == sorted(planted.items())
    for one in suspected:
        assert (one.annotation is None) == (one.kind == "missing annotation") == (not one.annotated)
        assert one.file_name == f"{one.image_id}.png" and one.score >= SUSPECT_SCORE


def test_exported_models_with_attention_get_the_same_verdicts(found: Why) -> None:
    """Proposals too; but no graph takes the edits that prove a duplicate, and the log says so."""
    loaded, dataset = load_model("sprint-dense-n"), open_dataset(SOURCE, "val")
    graph = build_onnx(loaded.model, loaded.card, attention=True)
    metadata = read_metadata(graph, "dogs")
    openvino = OpenVinoEngine(openvino_of_onnx(graph, metadata), metadata, "fp32", "dogs")
    expected = {(v.image_id, v.annotation, v.query, v.stage) for v in found.verdicts}
    for engine in (OnnxEngine(graph, "auto", "dogs"), openvino):
        detector = ds.Detector(engine, loaded.card)
        why = explain_errors(detector, dataset, threshold=0.3)
        assert {(v.image_id, v.annotation, v.query, v.stage) for v in why.verdicts} == expected
        assert (
            detector.predict(torch.zeros(1, 3, 64, 64), None, Probe([], values=False)).proposals is not None
        )


def test_plain_exports_are_refused_with_what_to_do() -> None:
    loaded = load_model("sprint-dense-n")
    engine = OnnxEngine(build_onnx(loaded.model, loaded.card, attention=False), "auto", "dogs")
    with pytest.raises(UserError, match="exported without attention; export it again with attention"):
        explain_errors(ds.Detector(engine, loaded.card), open_dataset(SOURCE, "val"))


def test_the_command_writes_a_page_and_numbers(tmp_path: Path) -> None:
    words = ["evaluate", "--model", "sprint-dense-n", "--data", SOURCE, "--why", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, "--threshold", "0.3", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "where errors arise" in result.output and "AP50" in result.output
    numbers = json.loads((tmp_path / "why.json").read_text())
    page = (tmp_path / "why.html").read_text()
    assert len(numbers["errors"]) == sum(row["missed"] + row["false"] for row in numbers["stages"])
    assert page.count('class="card"') == min(60, len(numbers["errors"]))
    for heading in ("Scores", "Sizes, from the threshold up", "AP of parts", "Confusion", "Kinds of errors"):
        assert f"<h2>{heading}" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tile", "64"], "--why takes whole images one by one and writes to --out only; leave --tile out"),
        (["--json", "x"], "leave --json out"),
        (["--store-thresholds"], "leave --store-thresholds out"),
        (["--threshold", "2"], "Input should be less than or equal to 1"),
    ],
)
def test_wrong_options_are_named(words: list[str], says: str) -> None:
    command = ["evaluate", "--model", "sprint-dense-n", "--data", SOURCE, "--why", *words]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    assert says in " ".join((result.output + str(result.exception)).split())


def square(image: int, left: float, **more: Any) -> dict[str, Any]:
    """Return a row of COCO: a box of 10 pixels."""
    return {"image_id": image, "category_id": 1, "bbox": [left, 0.0, 10.0, 10.0], **more}


def one_image(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    images = [{"id": 1, "file_name": "1.png", "width": 5000, "height": 100}]
    rows = [{"area": 100.0, "iscrowd": 0, **row} for row in annotations]
    return {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}


def test_confusion_counts_every_detection_of_an_image() -> None:
    """More than the 100 that AP looks at; on crowds they count as neither right nor wrong."""
    annotations = [square(1, 20.0 * n, id=n) for n in range(1, 121)]
    crowd = square(1, 4000.0, id=200, iscrowd=1)
    results = [square(1, 20.0 * n, score=0.9) for n in range(1, 121)] + [square(1, 4000.0, score=0.9)]
    types = error_types(one_image([*annotations, crowd]), results, 0.3)
    assert types.confusion[0][0] + types.confusion[1][0] >= 100
    assert types.confusion[1][0] == 0, "a detection on a crowd is no error"


def test_slices_count_objects_without_crowds() -> None:
    types = error_types(one_image([square(1, 0.0, id=1, iscrowd=1)]), [], 0.3)
    assert [part.name for part in types.slices if part.by == "number of objects"] == ["no objects"]


def test_suspected_annotations_have_the_ids_of_the_file() -> None:
    truth = one_image([square(1, 0.0, id=1), square(1, 50.0, id=2)])
    truth["categories"].append({"id": 2, "name": "dog"})
    result = {**square(1, 50.0, score=0.95), "category_id": 2}
    (suspected,) = error_types(truth, [square(1, 0.0, score=0.9), result], 0.3, [0, 1]).suspected
    assert (suspected.kind, suspected.annotation) == ("wrong class", 1)


def test_no_images_have_no_interval() -> None:
    truth = {**one_image([]), "images": []}
    assert error_types(truth, [], 0.3).interval == Interval(None, 0.0, 0.0)
    assert ap_difference(truth, [], []) is None
