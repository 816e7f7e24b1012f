"""The teaching model of the examples and the family `minimal` are the same function of the same weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.spread_weights import calibrate_linear, calibrate_norms, median_distance, spread_weights

from detrscope.checkpoints.load import load_model
from detrscope.core.types import Batch
from tests.conftest import ROOT


def example() -> Any:
    spec = importlib.util.spec_from_file_location("minimal_detr", ROOT / "examples" / "minimal_detr.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_family_equals_example(tmp_path: Path) -> None:
    teaching = example().MinimalDETR().eval()
    spread_weights(teaching)
    images = torch.randn(2, 3, 192, 256, generator=torch.Generator().manual_seed(0))
    calibrate_norms(teaching, lambda: teaching(images))
    calibrate_linear(teaching.linear_bbox, lambda: teaching(images), spread=0.6)
    torch.save(teaching.state_dict(), tmp_path / "detr_demo.pth")
    loaded = load_model("minimal-r50", weights=tmp_path / "detr_demo.pth")
    # In float64: the order of sums differs, which in float32 is 1e-5 of a box on some machines.
    teaching, model, images = teaching.double(), loaded.model.double(), images.double()
    with torch.no_grad():
        logits, boxes = teaching(images)
        ours = model(Batch(images))
    assert median_distance(boxes, 256, 192) > 10, "the comparison could not fail"
    torch.testing.assert_close(ours.logits[-1], logits, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(ours.boxes_cxcywh[-1], boxes, atol=1e-10, rtol=0)


def test_layout_is_recognised_without_a_variant(tmp_path: Path) -> None:
    torch.save(example().MinimalDETR(classes=3).state_dict(), tmp_path / "mine.pth")
    loaded = load_model(tmp_path / "mine.pth")
    assert loaded.card.family == "minimal"
    assert loaded.card.classes.names == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    ("words", "message"), [((), "usage: python"), (("a.jpg", "b.pth"), "a.jpg: no such file")]
)
def test_example_prints_its_usage(words: tuple[str, ...], message: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / "minimal_detr.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
