"""Detector: from a picture of any kind to boxes in its own pixels."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import postprocess
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Outputs
from detrscope.inference import torch_engine
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import load
from detrscope.inference.torch_engine import choose_device, require_torch_engine
from tests.support.tiny_models import tiny


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    loaded = tiny("detr-r18")
    save_checkpoint(path, loaded.model, loaded.card)
    return load(path)


def picture(width: int = 90, height: int = 60) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_every_source_type_gives_the_same_detections(detector: Detector, tmp_path: Path) -> None:
    image = picture()
    image.save(tmp_path / "p.png")
    data = io.BytesIO()
    image.save(data, format="PNG")
    array = np.asarray(image)
    sources = [
        tmp_path / "p.png",
        str(tmp_path / "p.png"),
        image,
        array,
        data.getvalue(),
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    results = detector.detect(sources, threshold=0.0)
    assert len(results) == len(sources)
    for result in results:
        torch.testing.assert_close(result.boxes_xyxy, results[0].boxes_xyxy, atol=0, rtol=0)
        assert result.names == results[0].names


def test_bgr_arrays_need_the_channels_argument(detector: Detector) -> None:
    array = np.asarray(picture())
    right = detector.detect(array, threshold=0.0)
    same = detector.detect(array[..., ::-1], threshold=0.0, channels="bgr")
    assert torch.equal(right.boxes_xyxy, same.boxes_xyxy)
    other = detector.detect(array[..., ::-1], threshold=0.0)
    assert not torch.equal(right.scores, other.scores)


def test_threshold_zero_gives_every_query_with_original_ids(detector: Detector) -> None:
    found = detector.detect(picture(), threshold=0.0)
    assert len(found) == 7 and sorted(found.query_ids.tolist()) == list(range(7))
    assert set(found.labels.tolist()) <= {1, 7, 900}
    by_id = {1: "cell", 7: "dog", 900: "far"}
    assert [by_id[i] for i in found.labels.tolist()] == list(found.names)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    x1, y1, x2, y2 = found.boxes_xyxy.unbind(1)
    assert bool((x1 >= 0).all() and (x2 <= 90).all() and (y1 >= 0).all() and (y2 <= 60).all())
    middle = float(found.scores.median())
    some = detector.detect(picture(), threshold=middle)
    assert len(some) == int((found.scores >= middle).sum()) < 7


def test_boxes_are_pixels_of_the_original(detector: Detector) -> None:
    image = picture(120, 40)
    found = detector.detect(image, threshold=0.0)
    outputs = detector.predict(
        detector.card.preprocessing.apply(torch.from_numpy(np.array(image)).permute(2, 0, 1))[None]
    )
    cx, cy, w, h = outputs.boxes_cxcywh[-1, 0, found.query_ids[0]]
    expected = torch.stack([(cx - w / 2) * 120, (cy - h / 2) * 40, (cx + w / 2) * 120, (cy + h / 2) * 40])
    expected = expected.clamp(min=0).minimum(torch.tensor([120.0, 40.0, 120.0, 40.0]))
    torch.testing.assert_close(found.boxes_xyxy[0], expected)


def test_postprocess_of_softmax_and_sigmoid_scores() -> None:
    logits = torch.tensor([[[[0.0, 5.0, 9.0], [3.0, 0.0, -9.0]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.25, 0.5, 0.5, 1.0]]]])
    card = ModelCard("detr", "detr-r18", {}, ClassTable((1, 2), ("a", "b")), Preprocessing(), "softmax")
    (soft,) = postprocess(Outputs(logits, boxes), card, [(100, 200)])
    assert soft.query_ids.tolist() == [1, 0] and soft.class_indices.tolist() == [0, 1]
    assert soft.boxes_xyxy[0].tolist() == [0.0, 0.0, 100.0, 100.0]
    (pairs,) = postprocess(Outputs(logits, boxes), replace(card, scoring="sigmoid"), [(100, 200)])
    assert len(pairs.scores) == 6 <= card.top
    (fewer,) = postprocess(Outputs(logits, boxes), replace(card, scoring="sigmoid", top=4), [(100, 200)])
    assert torch.equal(fewer.scores, pairs.scores[:4])
    assert pairs.query_ids.tolist()[:3] == [0, 0, 1] and pairs.class_indices.tolist()[:3] == [2, 1, 0]


def test_bad_settings_are_one_line_errors(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="threshold 7: expected a score between 0 and 1"):
        detector.detect(picture(), threshold=7)
    with pytest.raises(
        UserError, match=r"engine 'tensorrt' is not known; valid: auto, onnx, openvino, torch"
    ):
        load("detr-r18", weights="random", engine="tensorrt")
    with pytest.raises(UserError, match=r"device 'gpu'.*use auto, cpu"):
        choose_device("gpu")
    with pytest.raises(UserError, match="precision fp16 is for GPUs"):
        load("detr-r18", weights="random", device="cpu", precision="fp16")
    with pytest.raises(UserError, match=r"precision 'bf61' is not known; did you mean 'bf16'"):
        load("detr-r18", weights="random", precision="bf61")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"nowhere.jpg"):
        detector.detect(tmp_path / "nowhere.jpg")


def test_load_takes_class_names() -> None:
    detector = load("detr-r18", weights="random", classes=["ant", "bee"], device="cpu")
    assert detector.classes == ClassTable((0, 1), ("ant", "bee"))
    assert detector.predict(torch.zeros(1, 3, 64, 64)).logits.shape[-1] == 3


def test_copied_detector_uses_its_own_weights(detector: Detector) -> None:
    images = torch.randn(1, 3, 64, 64)
    before = detector.predict(images)
    twin = copy.deepcopy(detector)
    assert torch.equal(twin.predict(images).logits, before.logits)
    with torch.no_grad():
        model = require_torch_engine(twin.engine, "test").model
        model.backbone.get_submodule("body.conv1").get_parameter("weight").mul_(0)
    assert not torch.equal(twin.predict(images).logits, before.logits), "a weight laid out before was used"
    assert torch.equal(detector.predict(images).logits, before.logits)


@pytest.mark.parametrize(
    ("trained", "fastest", "expected"),
    [
        ("bf16", "bf16", "bf16"),
        ("bf16", "fp32", "fp32"),
        ("fp32", "bf16", "fp32"),
        (None, "bf16", "fp32"),
    ],
)
def test_auto_precision_follows_the_card_where_native(
    trained: Literal["fp32", "bf16"] | None,
    fastest: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_engine, "fastest_precision", lambda device: fastest)
    made = tiny("sprint-dense-n")
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, made.model, replace(made.card, precision=trained))
    assert load(path, device="cpu").engine.precision == expected
    assert load(path, device="cpu", precision="fp32").engine.precision == "fp32"
