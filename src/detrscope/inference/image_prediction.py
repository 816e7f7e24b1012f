"""What a model predicts in one image, whatever its kind, and how many boxes it took to get there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor
from torchvision.ops import batched_nms

from detrscope.core.classes import ClassTable
from detrscope.core.postprocess import Scored, postprocess
from detrscope.inference.detector import Detector

NMS_IOU = 0.5  # torchvision's for Faster R-CNN, and what duplicates are counted at


@dataclass(frozen=True)
class BoxCounts:
    """Boxes of one image, or of several, from candidates to detections.

    Attributes:
        candidates: queries of a detection transformer, or proposals of Faster R-CNN.
        above: pairs of candidate and class that reach the threshold.
        removed: those of them that the model's own non-maximum suppression removes; 0 for set prediction.
        cut: those beyond the most detections that the model gives for an image.
        left: detections.
        duplicates: detections that non-maximum suppression per class at `NMS_IOU` would remove.
    """

    candidates: int
    above: int
    removed: int
    cut: int
    left: int
    duplicates: int

    def __add__(self, other: BoxCounts) -> BoxCounts:
        """Return the sum over both."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return BoxCounts(*(a + b for a, b in pairs))


NO_BOXES = BoxCounts(0, 0, 0, 0, 0, 0)


class ImagePrediction(Protocol):
    """Predictions of one image."""

    @property
    def scored(self) -> Scored:
        """Every prediction, best first, on the CPU."""
        ...

    def counts(self, threshold: float) -> BoxCounts:
        """Count the boxes that lead to the detections of at least this score."""
        ...


class ImagePredictor(Protocol):
    """A model that predicts one image at a time, preprocessing included."""

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        ...

    def predict_image(self, image: Tensor) -> ImagePrediction:
        """Return the predictions in an upright image, uint8 [3, H, W]."""
        ...


@dataclass(frozen=True)
class SetPrediction:
    """Predictions of a detection transformer: a query is one object, and none is suppressed."""

    scored: Scored
    queries: int

    def counts(self, threshold: float) -> BoxCounts:
        """Count the boxes that lead to the detections of at least this score."""
        left = int((self.scored.scores >= threshold).sum())
        return BoxCounts(self.queries, left, 0, 0, left, count_duplicates(self.scored, threshold))


class SetPredictor:
    """A detection transformer that predicts one image at a time.

    Args:
        detector: the model with its preprocessing.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        return self.detector.classes

    def predict_image(self, image: Tensor) -> SetPrediction:
        """Return the predictions in an upright image, uint8 [3, H, W]."""
        card = self.detector.card
        outputs = self.detector.predict(card.preprocessing.apply(image)[None])
        (scored,) = postprocess(outputs, card, [(image.shape[-2], image.shape[-1])])
        return SetPrediction(scored_on_cpu(scored), outputs.logits.shape[2])


def scored_on_cpu(scored: Scored) -> Scored:
    """Return the predictions on the CPU, once they are computed."""
    return _each_tensor(scored, Tensor.cpu)


def count_duplicates(scored: Scored, threshold: float, iou: float = NMS_IOU) -> int:
    """Count the predictions of at least this score that NMS per class would remove."""
    return int((scored.scores >= threshold).sum() - (suppress(scored, iou).scores >= threshold).sum())


def suppress(scored: Scored, iou: float = NMS_IOU) -> Scored:
    """Return the predictions that NMS per class leaves, best first.

    It goes from the best box down, so that a threshold may be applied before or after it.
    """
    kept = batched_nms(scored.boxes_xyxy.float(), scored.scores.float(), scored.class_indices, iou)
    return _each_tensor(scored, lambda tensor: tensor[kept])


def _each_tensor(scored: Scored, change: Callable[[Tensor], Tensor]) -> Scored:
    """Return the predictions with every tensor that they have changed."""
    values: dict[str, Any] = vars(scored)
    changed: dict[str, Any] = {name: change(x) if isinstance(x, Tensor) else x for name, x in values.items()}
    return replace(scored, **changed)
