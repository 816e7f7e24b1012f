"""Hiding through keys and pixels on real runs of models, the sanity check, and what the command leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.commands.faithfulness import faithfulness
from detrscope.core.edits import Bias, Gain
from detrscope.core.errors import UserError
from detrscope.core.types import Outputs
from detrscope.data.drawn_dogs import write_drawn
from detrscope.explain.explainers import EXPLAINERS, explain_detections, explain_inputs
from detrscope.explain.perturbation import PerturbationRunner
from detrscope.explain.sanity import sanity_check, sanity_stages
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import load
from detrscope.inference.torch_engine import require_torch_engine
from detrscope.lens.deletion_curves import Detected, curve_detection_score
from tests.support.traces import detector_of, picture


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dogs") / "set"
    write_drawn(folder, count=3, seed=0, start=10_000_004)
    return folder


@pytest.fixture(scope="module")
def shipped() -> Detector:
    return load("sprint-dense-n", device="cpu")


def test_hidden_keys_equal_bias_edits(shipped: Detector, dogs: Path) -> None:
    """A point of both curves made again with one edited trace, and the ends of the curves."""
    path = dogs / "images" / "10000004.png"
    case = next(iter(explain_detections(shipped, path, 0.5)))
    runner = PerturbationRunner(shipped, case)
    weights = EXPLAINERS["attention, last layer"](case)
    deletion, insertion = runner.keys(weights, 8)
    order = weights.argsort(descending=True, stable=True)
    count = round(3 / 8 * (len(order) - 1))
    for found, hidden in ((deletion[3], order[:count]), (insertion[3], order[count + 1 :])):
        scores = torch.zeros(1, 1, 1, len(order))
        scores[..., hidden] = float("-inf")
        edited = shipped.trace(path, edits=[Bias("decoder.*.cross", scores)])
        outputs = Outputs(edited.logits[:, None], edited.boxes_cxcywh[:, None])
        expected = curve_detection_score(outputs, case.detected, "sigmoid")
        torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-4)
        assert edited.record("decoder.1.cross").rows()[..., hidden].abs().max() == 0
    assert (
        float(deletion[0])
        == pytest.approx(runner.undisturbed, rel=1e-4)
        == pytest.approx(float(insertion[-1]), rel=1e-4)
    )
    assert float(deletion[4]) < 0.8 * runner.undisturbed and float(insertion[4]) > 0.8 * runner.undisturbed


def test_hidden_keys_equal_gain_edits_when_deformable() -> None:
    detector = detector_of("sprint-deformable-n")
    trace = detector.trace(picture(), explain=[2])
    detected = Detected(2, trace.gradients[0].class_index, trace.boxes_cxcywh[-1, 2])
    (case,) = explain_inputs(detector, trace, [detected])
    runner = PerturbationRunner(detector, case)
    weights = EXPLAINERS["attention, mean of layers"](case)
    deletion, insertion = runner.keys(weights, 4)
    hidden = weights.argsort(descending=True, stable=True)[: round(2 / 4 * (len(weights) - 1))]
    edited = detector.trace(picture(), edits=[Gain("decoder.*.cross", 0.0, keys=tuple(hidden.tolist()))])
    expected = curve_detection_score(
        Outputs(edited.logits[:, None], edited.boxes_cxcywh[:, None]), detected, "sigmoid"
    )
    torch.testing.assert_close(deletion[2], expected[0], atol=1e-5, rtol=1e-4)
    assert edited.record("decoder.0.cross").rows()[..., hidden].abs().max() == 0
    assert len(set(deletion.tolist())) > 1 and float(insertion[-1]) == pytest.approx(
        runner.undisturbed, rel=1e-4
    )


def test_hidden_pixels_are_the_highest_of_the_map(
    shipped: Detector, dogs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(iter(explain_detections(shipped, dogs / "images" / "10000004.png", 0.5)))
    runner = PerturbationRunner(shipped, case)
    weights = torch.zeros(64)
    weights[:32] = 1 + torch.rand(32)  # the upper half of an 8x8 map
    images: list[torch.Tensor] = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        images.append(x)
        return torch.zeros(len(x))

    monkeypatch.setattr(runner, "_scores", watched)
    runner.pixels(weights, 4)
    deleted, inserted = images[0][2, 0], images[1][2, 0]  # at one half
    assert deleted[:60].abs().max() == 0 and deleted[68:].abs().min() > 0
    torch.testing.assert_close(inserted[:60], runner.images[0, 0, :60])
    torch.testing.assert_close(inserted[68:], runner.blurred[0, 0, 68:])
    torch.testing.assert_close(images[0][0], runner.images[0])
    torch.testing.assert_close(images[1][0], runner.blurred[0])
    torch.testing.assert_close(runner.blurred.mean(), runner.images.mean(), atol=0.1, rtol=0)
    assert runner.blurred.std() < runner.images.std()


def test_faithfulness_of_the_shipped_model(shipped: Detector, dogs: Path, tmp_path: Path) -> None:
    model = require_torch_engine(shipped.engine, "test").model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    some = ["attention, last layer", "relevance", "input gradient", "middle of the box"]
    settings = {"split": "train", "count": 2, "steps": 4, "sanity": 1, "methods": some}
    found = faithfulness(shipped, f"coco:{dogs}", out=tmp_path, **settings)  # type: ignore[arg-type]
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items()), (
        "the model is left as it was"
    )
    methods = [*some, "random"]
    assert [s.method for s in found.summaries] == [m for m in methods for _ in range(4)]
    assert (
        found.images == 2
        and found.detections == found.summaries[0].detections >= 1
        and 0 <= found.muted <= 1.2
    )
    by_kind = {(s.method, s.where, s.what): s for s in found.summaries}
    for where in ("keys", "pixels"):
        best = min(by_kind[m, where, "deletion"].area for m in some)
        assert best < by_kind["random", where, "deletion"].area
    for sanity in found.sanity:
        assert [*sanity.correlation] == [
            "heads", "decoder.2", "decoder.1", "decoder.0", "queries", "encoder.0", "neck", "backbone",
        ]  # fmt: skip
        assert all(-1 <= value <= 1 for value in sanity.correlation.values())
    box = next(s for s in found.sanity if s.method == "middle of the box")
    assert all(value == pytest.approx(1) for value in box.correlation.values()), "it looks at no parameter"
    tree = json.loads((tmp_path / "faithfulness.json").read_text())
    assert len(tree["summaries"]) == len(found.summaries) and tree["steps"] == 4
    with open(tmp_path / "faithfulness.csv", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [s.method for s in found.summaries]
    assert np.asarray(Image.open(tmp_path / "faithfulness.png")).std() > 10


def test_sanity_check_without_detections_warns(
    shipped: Detector, dogs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert sanity_check(shipped, [dogs / "images" / "10000004.png"], ["rollout"], threshold=1.0) == []
    assert "nothing is detected in its 1 images" in caplog.text


@pytest.mark.parametrize(
    "variant", ["detr-r18", "minimal-r50", "sprint-deformable-n", "deformable-detr-r50-two-stage"]
)
def test_stages_cover_every_parameter_once(variant: str) -> None:
    model = require_torch_engine(detector_of(variant).engine, "test").model
    held = [id(p) for _, part in sanity_stages(model) for p in part]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in model.parameters()}
    names = [name for name, _ in sanity_stages(model)]
    assert (
        names[0] == "heads"
        and names[-1] == "backbone"
        and names.index("decoder.1") < names.index("decoder.0")
    )


def test_wrong_settings_are_one_line_errors(shipped: Detector, dogs: Path) -> None:
    source = f"coco:{dogs}"
    for settings, message in (
        ({"count": 0}, "count 0: expected 1 or more"),
        ({"steps": 1}, "steps 1: expected 2 or more"),
        ({"methods": ["rolout"]}, "method 'rolout' is not known; did you mean 'rollout'"),
        ({"threshold": 1.0, "split": "train"}, "nothing is detected with a score of 1.0 or more in 3 images"),
    ):
        with pytest.raises(UserError, match=message):
            faithfulness(shipped, source, **settings)  # type: ignore[arg-type]
