"""All predictions of a model in one image: every layer, every query, and the boxes that the queries start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import class_scores
from detrscope.core.types import Outputs


@dataclass(frozen=True)
class ImagePredictions:
    """All predictions of a model in one image.

    Attributes:
        scores: [N, Q, classes] of every decoder layer, the last at -1.
        boxes_xyxy: [N, Q, 4] pixels of the upright image.
        token: width and height of a token of the finest feature map, in pixels of the upright image.
        starts_xyxy: [Q, 4] boxes that the queries start from, where they are proposals; None without.
        softmax: each query is one detection, with its best class; otherwise each pair of query and class is.
    """

    scores: Tensor
    boxes_xyxy: Tensor
    token: tuple[float, float]
    starts_xyxy: Tensor | None
    softmax: bool


@dataclass(frozen=True)
class Objects:
    """Annotated objects of one image, without crowds.

    Attributes:
        boxes_xyxy: [M, 4] pixels.
        labels: [M] class indices of the model.
        annotations: ids.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    annotations: Sequence[int]


@dataclass(frozen=True)
class Crowds:
    """Regions of one image with many objects of a class: boxes_xyxy [n, 4] pixels and labels [n] class indices."""

    boxes_xyxy: Tensor
    labels: Tensor


def image_predictions(
    outputs: Outputs, card: ModelCard, size: tuple[int, int], stride: tuple[float, float]
) -> ImagePredictions:
    """Return the predictions of a batch of one image.

    Args:
        outputs: of the model, B = 1.
        card: scoring and preprocessing of the model.
        size: height and width of the upright image.
        stride: width and height of a token of the finest feature map, in pixels of the model's input.
    """
    height, width = size
    rows, columns = card.preprocessing.size_for(height, width)
    starts = None
    if outputs.proposals is not None:
        logits = outputs.proposals.logits[0].float()  # [S, K]
        best = logits[:, 0] if outputs.proposals.any_class else logits.amax(-1)
        count = min(outputs.logits.shape[2], len(best))
        boxes = outputs.proposals.boxes_cxcywh[0, best.topk(count).indices].float()
        starts = scale_boxes(cxcywh_to_xyxy(boxes), width, height).cpu()
    return ImagePredictions(
        class_scores(outputs.logits[:, 0], card.scoring).cpu(),
        scale_boxes(cxcywh_to_xyxy(outputs.boxes_cxcywh[:, 0].float()), width, height).cpu(),
        (stride[0] * width / columns, stride[1] * height / rows),
        starts,
        card.scoring == "softmax",
    )
