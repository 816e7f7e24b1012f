"""Images and detections equal those of transformers' processors: one grey level, all pairs of query and class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from detrscope.checkpoints.hugging_face_processor import read_processor
from detrscope.core.postprocess import postprocess
from detrscope.core.types import Outputs
from tests.support.tiny_models import built

CASES = {  # the processor that a family's files on the hub name, and its size
    "lwdetr-t": ("DeformableDetrImageProcessor", {"height": 640, "width": 640}),
    "rfdetr-nano": ("RfDetrImageProcessor", {"height": 384, "width": 384}),
    "rfdetr-seg-nano": ("RfDetrImageProcessor", {"height": 312, "width": 312}),
    "dfine-n": ("RTDetrImageProcessor", {"height": 640, "width": 640}),
    "deimv2-atto": ("RTDetrImageProcessor", {"height": 320, "width": 320}),
}


@pytest.mark.parametrize("variant", CASES)
def test_images_equal_transformers(variant: str, tmp_path: Path) -> None:
    name, size = CASES[variant]
    processor = getattr(transformers, name)(size=size, do_pad=False)
    processor.save_pretrained(tmp_path)
    preprocessing, notes = read_processor(tmp_path / "preprocessor_config.json")
    assert not notes and preprocessing.antialias == (name != "RfDetrImageProcessor")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (410, 900, 3), dtype=np.uint8))
    theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
    ours = preprocessing.apply(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    assert ours.shape == theirs.shape == (3, size["height"], size["width"])
    levels = (ours - theirs) * torch.tensor(preprocessing.std).view(3, 1, 1) * 255
    assert levels.abs().max() < 1.01


@pytest.mark.parametrize("variant", CASES)
def test_detections_equal_transformers(variant: str) -> None:
    name, size = CASES[variant]
    card = built(variant).card
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 300, len(card.classes), generator=generator)
    boxes = torch.rand(1, 2, 300, 4, generator=generator) * 0.4 + 0.2
    given = SimpleNamespace(logits=logits[-1], pred_boxes=boxes[-1])
    processor = getattr(transformers, name)(size=size)
    more = {"top_k": card.top} if name == "DeformableDetrImageProcessor" else {}
    sizes = [(410, 700), (90, 130)]
    expected = processor.post_process_object_detection(given, threshold=0.0, target_sizes=sizes, **more)
    for found, other in zip(postprocess(Outputs(logits, boxes), card, sizes), expected, strict=True):
        count = min(len(found.scores), len(other["scores"]))
        assert count >= min(100, card.top)
        torch.testing.assert_close(found.scores[:count], other["scores"][:count])
        torch.testing.assert_close(found.boxes_xyxy[:count], other["boxes"][:count], atol=1e-2, rtol=0)
        assert torch.equal(found.class_indices[:count], other["labels"][:count])
