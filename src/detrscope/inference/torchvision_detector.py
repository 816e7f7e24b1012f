"""torchvision's Faster R-CNN behind the same `detect` as a detection transformer, with its boxes counted."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from detrscope.console import log
from detrscope.core.argument_check import check_method_arguments
from detrscope.core.classes import ClassTable
from detrscope.core.download import is_url, shown_url
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import Scored
from detrscope.core.types import Detections
from detrscope.data.image_reader import Channels, ImageSource, read_image
from detrscope.inference.engine import Precision
from detrscope.inference.faster_rcnn_files import load_faster_rcnn
from detrscope.inference.image_prediction import BoxCounts, count_duplicates
from detrscope.inference.torch_engine import choose_device, choose_dtype
from detrscope.ops.kernels.native_precision import DTYPES

SMALLEST = 1e-2  # side in pixels of boxes that torchvision drops


@dataclass(frozen=True)
class RegionPrediction:
    """Predictions of Faster R-CNN, with what they were selected from.

    Attributes:
        scored: detections of at least the model's own least score; `query_ids` is their rank.
        class_logits: [P, 1 + classes] of every proposal, background first.
        box_deltas: [P, 4 * (1 + classes)] from proposal to box.
        proposals: [P, 4] pixels of the resized image.
        size: height and width of the resized image.
        heads: decodes and suppresses boxes.
    """

    scored: Scored
    class_logits: Tensor
    box_deltas: Tensor
    proposals: Tensor
    size: tuple[int, int]
    heads: RoIHeads

    def counts(self, threshold: float) -> BoxCounts:
        """Count the boxes that lead to the detections of at least this score.

        NMS goes from the best box down, so that what scores less than the threshold has no influence on what is left.
        """
        boxes, scores, labels = self._pairs
        above = (scores >= threshold).nonzero().flatten()
        kept = batched_nms(boxes[above], scores[above], labels[above], self.heads.nms_thresh)
        left = min(len(kept), self.heads.detections_per_img)
        removed = len(above) - len(kept)
        duplicates = count_duplicates(self.scored, threshold)
        return BoxCounts(len(self.proposals), len(above), removed, len(kept) - left, left, duplicates)

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes [n, 4], scores [n] and labels [n] of the pairs of proposal and class that go into NMS."""
        scores = self.class_logits.softmax(-1)[:, 1:]  # [P, classes]
        decoded = self.heads.box_coder.decode(self.box_deltas, [self.proposals])[:, 1:]  # [P, classes, 4]
        boxes = clip_boxes_to_image(decoded, self.size).reshape(-1, 4)
        labels = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(scores).reshape(-1)
        scores = scores.reshape(-1)
        keep = (scores > self.heads.score_thresh).nonzero().flatten()
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        keep = remove_small_boxes(boxes, SMALLEST)
        return boxes[keep], scores[keep], labels[keep]


@check_method_arguments
class TorchvisionDetector:
    """torchvision's Faster R-CNN, with class names and original category ids. Made by `load_torchvision`.

    It has no attention: there is no `trace`. In float32 its numbers are those of torchvision's own model.

    Attributes:
        model: torchvision's module, which resizes and normalises itself.
        card: classes and settings of the model.
        device: device that computes.
        precision: precision of backbone and pyramid; proposals, heads and boxes are in float32 always.
    """

    def __init__(self, model: FasterRCNN, card: ModelCard, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.card = card
        self.device = str(device)
        self.precision = {value: name for name, value in DTYPES.items()}[dtype]
        self._device, self._dtype = device, dtype
        if dtype != torch.float32:
            self.model.backbone.to(memory_format=torch.channels_last)

    def __repr__(self) -> str:
        return f"TorchvisionDetector({self.card.variant}, {len(self.classes)} classes, {self.device}, {self.precision})"

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        return self.card.classes

    @torch.no_grad()
    def predict_image(self, image: Tensor) -> RegionPrediction:
        """Return the predictions in an upright image, uint8 [3, H, W].

        This is the forward of torchvision's `GeneralizedRCNN` and `RoIHeads`, module by module and in the same order:
        they return neither proposals nor the boxes before NMS, and hooks or patches would be needed to see them.
        """
        model, heads = self.model, self.model.roi_heads
        original = (image.shape[-2], image.shape[-1])
        batch, _ = model.transform([image.to(self._device).float() / 255])
        reduced = self._dtype != torch.float32
        pixels = batch.tensors.to(memory_format=torch.channels_last) if reduced else batch.tensors
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=reduced):
            maps = model.backbone(pixels)
        # In bf16 torchvision would decode boxes in 8 bits, rounded to one or two pixels.
        maps = OrderedDict((name, values.float()) for name, values in maps.items())
        proposals, _ = model.rpn(batch, maps)
        pooled = heads.box_head(heads.box_roi_pool(maps, proposals, batch.image_sizes))
        class_logits, box_deltas = heads.box_predictor(pooled)
        boxes, scores, labels = heads.postprocess_detections(
            class_logits, box_deltas, proposals, batch.image_sizes
        )
        found = [{"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}]
        (result,) = model.transform.postprocess(found, batch.image_sizes, [original])
        scored = Scored(
            result["boxes"].cpu(),
            result["scores"].cpu(),
            result["labels"].cpu() - 1,
            torch.arange(len(result["scores"])),
        )
        return RegionPrediction(
            scored, class_logits, box_deltas, proposals[0], batch.image_sizes[0], self.model.roi_heads
        )

    @overload
    def detect(
        self,
        source: list[ImageSource] | tuple[ImageSource, ...],
        threshold: float = 0.7,
        *,
        channels: Channels = "rgb",
    ) -> list[Detections]: ...

    @overload
    def detect(
        self, source: ImageSource, threshold: float = 0.7, *, channels: Channels = "rgb"
    ) -> Detections: ...

    def detect(
        self,
        source: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
        threshold: float = 0.7,
        *,
        channels: Channels = "rgb",
    ) -> Detections | list[Detections]:
        """Detect objects in one image, or in each of a list of images, as `Detector.detect`.

        Args:
            source: path, URL, bytes, PIL image, array [H, W, 3], tensor [3, H, W], or a list of these.
            threshold: minimum score, 0 to 1; the model itself gives nothing below 0.05.
            channels: order of the colours in arrays and tensors; "bgr" is what OpenCV gives.

        Returns:
            Detections with boxes in pixels of the upright original, best first; `query_ids` is their rank.

        Raises:
            UserError: an image that cannot be read, or a threshold outside 0..1.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold}: expected a score between 0 and 1")
        if isinstance(source, list | tuple):
            return [self._detect_in(image, threshold, channels) for image in source]
        return self._detect_in(source, threshold, channels)

    def _detect_in(self, source: ImageSource, threshold: float, channels: Channels) -> Detections:
        image = read_image(source, channels=channels)  # [3, H, W] uint8
        name = str(source) if isinstance(source, str | Path) else ""
        return self.predict_image(image).scored.detections(
            self.classes,
            threshold,
            height=image.shape[-2],
            width=image.shape[-1],
            source=shown_url(name) if is_url(name) else name,
        )


def load_torchvision(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> TorchvisionDetector | None:
    """Load torchvision's Faster R-CNN by name or file; return None where the name or file is another model's.

    Args:
        name_or_path: such as `fasterrcnn-r50-fpn`, a torchvision state dict, or a file that
            `benchmarks/train_faster_rcnn.py` wrote.
        weights: for a name: a file in place of torchvision's COCO weights, or "random".
        device: as for `load`.
        precision: as for `load`.

    Raises:
        UserError: unknown device or precision, or weights that cannot be read, downloaded or do not fit.
    """
    torch_device = choose_device(device)
    loaded = load_faster_rcnn(name_or_path, weights)
    if loaded is None:
        return None
    for line in loaded.report.lines():
        log.info(line)
    return TorchvisionDetector(
        loaded.model, loaded.card, torch_device, choose_dtype(precision, loaded.card, torch_device)
    )
