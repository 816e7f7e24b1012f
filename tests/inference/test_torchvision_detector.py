"""torchvision's Faster R-CNN behind `detect`: torchvision's own numbers, counted boxes, checked files."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from benchmarks import train_faster_rcnn
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d, batched_nms

from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.postprocess import Scored
from detrscope.inference import faster_rcnn_files
from detrscope.inference.faster_rcnn import FASTER_RCNNS, build_faster_rcnn, faster_rcnn_card
from detrscope.inference.image_prediction import count_duplicates
from detrscope.inference.torchvision_detector import TorchvisionDetector, load_torchvision
from tests.support.datasets import MakeDataset
from tests.support.faster_rcnns import (
    CLASSES,
    SIDES,
    SMALL,
    noise_image,
    small_faster_rcnn,
    write_faster_rcnn,
)

THRESHOLDS = (0.05, 0.2, 0.4, 0.6)


def loaded(path: Path | str, **options: Any) -> TorchvisionDetector:
    detector = load_torchvision(path, device="cpu", **options)
    assert detector is not None
    return detector


def as_published(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Under the names of torchvision's published files: frozen norms, and no list in pyramid and RPN."""
    renamed = OrderedDict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        short = key.replace("_blocks.", "_blocks#")
        for number in range(4):
            short = short.replace(f"_blocks#{number}.0.", f"_blocks#{number}.")
        renamed[short.replace("#", ".").replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
    return renamed


@pytest.fixture
def detector(tmp_path: Path) -> TorchvisionDetector:
    return loaded(write_faster_rcnn(tmp_path / "small.safetensors"))


@pytest.mark.parametrize("size", [(70, 110), (64, 96), (200, 120)])
def test_boxes_scores_and_labels_are_torchvisions_own(
    detector: TorchvisionDetector, size: tuple[int, int]
) -> None:
    image = noise_image(*size)
    with torch.no_grad():
        (own,) = small_faster_rcnn()([image.float() / 255])
    found = detector.detect(image, threshold=0.0)
    assert len(found) == len(own["scores"]) > 5
    assert torch.equal(detector.predict_image(image).scored.boxes_xyxy, own["boxes"])
    edges = torch.tensor([size[1], size[0], size[1], size[0]])  # a rounding may put a corner beyond them
    assert torch.equal(found.boxes_xyxy, own["boxes"].clamp(min=0).minimum(edges))
    assert torch.equal(found.scores, own["scores"])
    assert found.labels.tolist() == [CLASSES.ids[i - 1] for i in own["labels"].tolist()]
    assert found.names == tuple(CLASSES.name_of(i) for i in found.labels.tolist())
    assert (found.height, found.width) == size


def test_list_of_images_gives_a_list(detector: TorchvisionDetector) -> None:
    first, second = noise_image(seed=1), noise_image(40, 50, seed=2)
    both = detector.detect([first, second], threshold=0.3)
    assert [len(d) for d in both] == [len(detector.detect(i, threshold=0.3)) for i in (first, second)]
    with pytest.raises(UserError, match=r"threshold 1\.5"):
        detector.detect(first, threshold=1.5)


def test_counts_are_those_of_nms_on_torchvisions_unsuppressed_boxes(detector: TorchvisionDetector) -> None:
    image = noise_image()
    prediction = detector.predict_image(image)
    free = small_faster_rcnn()
    free.roi_heads.nms_thresh, free.roi_heads.detections_per_img = 2.0, 100_000  # suppresses nothing
    with torch.no_grad():
        (pairs,) = free([image.float() / 255])
        resized, _ = free.transform([image.float() / 255])
        proposals, _ = free.rpn(resized, free.backbone(resized.tensors))
    for threshold in THRESHOLDS:
        above = pairs["scores"] >= threshold
        kept = batched_nms(*(pairs[key][above] for key in ("boxes", "scores", "labels")), 0.5)
        counts = prediction.counts(threshold)
        assert counts.candidates == len(proposals[0])
        assert counts.above == above.sum()
        assert counts.removed == above.sum() - len(kept)
        assert counts.left == len(detector.detect(image, threshold)) == len(kept) - counts.cut
        assert counts.above - counts.removed - counts.cut == counts.left
        assert counts.duplicates == 0
    assert prediction.counts(0.05).removed > 0


def test_counts_name_what_the_limit_cuts(detector: TorchvisionDetector) -> None:
    detector.model.roi_heads.detections_per_img = 3
    counts = detector.predict_image(noise_image()).counts(0.05)
    assert counts.left == 3 and counts.cut == counts.above - counts.removed - 3 > 0


def test_duplicates_are_same_class_overlaps() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [20, 20, 30, 30]])
    scored = Scored(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 1, 0]), torch.arange(4))
    assert count_duplicates(scored, 0.5) == 1
    assert count_duplicates(scored, 0.85) == 0


def test_bf16_is_near_float32(tmp_path: Path) -> None:
    path, image = write_faster_rcnn(tmp_path / "small.safetensors"), noise_image()
    full, reduced = loaded(path), loaded(path, precision="bf16")
    assert (full.precision, reduced.precision) == ("fp32", "bf16")
    ours = reduced.predict_image(image)
    assert ours.scored.boxes_xyxy.dtype == ours.class_logits.dtype == torch.float32
    difference = ours.class_logits.softmax(-1).mean(0) - full.predict_image(image).class_logits.softmax(
        -1
    ).mean(0)
    assert difference.abs().max() < 0.05


@pytest.mark.parametrize("name", sorted(FASTER_RCNNS))
def test_torchvision_files_load_strictly(name: str, tmp_path: Path) -> None:
    variant = FASTER_RCNNS[name]
    torch.manual_seed(0)
    if variant.torchvision_name:
        own = torchvision.models.get_model(variant.torchvision_name, weights=None, weights_backbone=None)
    else:
        own = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 91)
    published = (variant.published_url() or "/plain.pth").rpartition("/")[2]
    torch.save(as_published(own.state_dict()), tmp_path / published)
    detector = loaded(tmp_path / published)
    assert detector.card.variant == name
    assert detector.classes.ids == tuple(range(1, 91)) and detector.classes.name_of(18) == "dog"
    for key, tensor in own.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(detector.model.state_dict()[key], tensor), key
    for ours, theirs in ((detector.model.rpn, own.rpn), (detector.model.roi_heads, own.roi_heads)):
        assert (ours.score_thresh, ours.nms_thresh) == (theirs.score_thresh, theirs.nms_thresh)
    assert detector.model.rpn.anchor_generator.sizes == own.rpn.anchor_generator.sizes
    assert detector.model.rpn.pre_nms_top_n() == own.eval().rpn.pre_nms_top_n()
    assert (detector.model.transform.min_size[0], detector.model.transform.max_size) == (
        own.transform.min_size[0],
        own.transform.max_size,
    )


def test_frozen_norms_of_published_files_are_reproduced(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    own = FasterRCNN(backbone, 3).eval()
    for name, buffer in own.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(1e-5, 2)  # small variances: epsilon matters
    overwrite_eps(own, 0.0)
    torch.save(as_published(own.state_dict()), tmp_path / "frozen.pth")
    ours = loaded(tmp_path / "frozen.pth").model.backbone(torch.ones(1, 3, 64, 64))
    for level, expected in own.backbone(torch.ones(1, 3, 64, 64)).items():
        torch.testing.assert_close(ours[level], expected, rtol=1e-3, atol=1e-3)


def test_class_names_come_from_a_file_beside_the_weights(tmp_path: Path) -> None:
    own = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 4)
    torch.save({"model": own.state_dict(), "epoch": 3}, tmp_path / "mine.pth")
    assert loaded(tmp_path / "mine.pth").classes.names == ("class 1", "class 2", "class 3")
    side = tmp_path / "mine.classes.json"
    side.write_text(json.dumps({"categories": CLASSES.to_json()}))
    assert loaded(tmp_path / "mine.pth").classes == CLASSES
    side.write_text(json.dumps(CLASSES.to_json()[:2]))
    with pytest.raises(UserError, match=r"mine.classes.json: lists 2 classes, but .*mine.pth has 3"):
        load_torchvision(tmp_path / "mine.pth")
    side.write_text('["cell", "dog", "far"]')
    with pytest.raises(UserError, match=r"mine.classes.json: expected a list of"):
        load_torchvision(tmp_path / "mine.pth")


def test_our_file_brings_names_ids_sides_and_anchors(detector: TorchvisionDetector) -> None:
    assert detector.classes == CLASSES
    assert detector.model.transform.min_size == (SIDES.short_side,)
    assert detector.model.rpn.anchor_generator.sizes == ((16,), (32,), (48,))
    assert not hasattr(detector, "trace")


def test_coco_weights_are_downloaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, sha256_prefix: str, **options: str) -> Path:
        raise UserError(f"{url} {sha256_prefix} {options['instead']}")

    monkeypatch.setattr(faster_rcnn_files, "fetch_checkpoint", refuse)
    with pytest.raises(UserError, match=r"fasterrcnn_resnet50_fpn_coco-258fb6c6.pth 258fb6c6 give the file"):
        load_torchvision("fasterrcnn-r50-fpn")
    with pytest.raises(UserError, match="fasterrcnn-r18-fpn: torchvision has no weights of it"):
        load_torchvision("fasterrcnn-r18-fpn")


def test_other_models_are_not_taken(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "classifier.pth")
    assert load_torchvision(tmp_path / "classifier.pth") is None
    assert load_torchvision("detr-r50") is None
    with pytest.raises(UserError, match=r"classifier.pth: not weights of torchvision's Faster R-CNN"):
        load_torchvision("fasterrcnn-r50-fpn", weights=tmp_path / "classifier.pth")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    own = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 4)
    state = {**own.state_dict(), "roi_heads.mask_head.0.0.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "mask.pth")
    with pytest.raises(UserError, match=r"mask.pth: does not fit .*left over roi_heads.mask_head.0.0.weight"):
        load_torchvision(tmp_path / "mask.pth")
    with pytest.raises(
        UserError, match=r"mask.pth: weights of Faster R-CNN with resnet18, expected fasterrcnn-r50"
    ):
        load_torchvision("fasterrcnn-r50-fpn", weights=tmp_path / "mask.pth")
    other = build_faster_rcnn(SMALL, 3, SIDES)
    torch.save(other.state_dict(), tmp_path / "pyramid.pth")
    with pytest.raises(UserError, match=r"pyramid.pth: a pyramid of ResNet stages \[2, 3\]"):
        load_torchvision(tmp_path / "pyramid.pth")
    wrong = faster_rcnn_card("fasterrcnn-r18-fpn", SMALL, ClassTable.of_names("ab"), SIDES, "")
    save_checkpoint(tmp_path / "wrong.safetensors", other, wrong)
    with pytest.raises(UserError, match=r"wrong.safetensors: does not fit .*cls_score.weight is \[4, 32\]"):
        load_torchvision(tmp_path / "wrong.safetensors")


def test_training_from_scratch_lowers_the_loss_and_keeps_ids(
    make_dataset: MakeDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "trained.safetensors"
    options = {
        "--data": f"coco:{make_dataset()}",
        "--cpu-minutes": 0.25,
        "--short-side": 48,
        "--long-side": 64,
    }
    options |= {"--out": out, "--representation": 32}
    words = [str(word) for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["train_faster_rcnn", *words])
    train_faster_rcnn.main()
    losses = [
        float(line.split("loss ")[1].split()[0])
        for line in capsys.readouterr().out.splitlines()
        if "loss " in line
    ]
    assert losses[-1] < losses[0]
    detector = loaded(out)
    assert detector.classes.ids == (1, 7, 900)
    assert "CPU minutes" in detector.card.source


def test_rates_warm_up_and_fall() -> None:
    rates = [train_faster_rcnn.rate_at(x) for x in (0, 0.025, 0.05, 0.5, 1)]
    assert rates[2] == 1 and rates == sorted(rates[:3]) + sorted(rates[3:], reverse=True)
    assert rates[-1] == train_faster_rcnn.FINAL
