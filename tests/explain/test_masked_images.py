"""D-RISE, ODAM and VPS on a detector whose explanation is known, their masks, and the similarity of detections."""

from __future__ import annotations

import pytest
import torch

from detrscope.core.types import Outputs
from detrscope.explain.explainers import EXPLAINERS, ExplainInput, explain_inputs
from detrscope.explain.masked_images import MaskedImages, detection_similarity, random_masks
from detrscope.explain.region_search import search_regions
from detrscope.lens.deletion_curves import Detected
from tests.support.linear_detector import CELLS, bright_picture, linear_detector


def case_of(row: int, column: int, masks: int = 600) -> ExplainInput:
    detector = linear_detector(row, column)
    trace = detector.trace(bright_picture())
    (case,) = explain_inputs(detector, trace, [Detected(0, 0, trace.boxes_cxcywh[-1, 0])], masks)
    return case


@pytest.mark.parametrize(("row", "column"), [(2, 5), (7, 0)])
@pytest.mark.parametrize("method", ["D-RISE", "ODAM", "input gradient", "gradient x input"])
def test_finds_the_one_cell_that_matters(method: str, row: int, column: int) -> None:
    weights = EXPLAINERS[method](case_of(row, column)).view(CELLS, CELLS)
    assert divmod(int(weights.argmax()), CELLS) == (row, column)
    others = weights.clone()
    others[row, column] = 0
    if method != "D-RISE":  # exact, while masks reach over several cells and are random
        assert others.abs().max() == 0
    else:
        far = weights[: row - 2].flatten() if row > 3 else weights[row + 3 :].flatten()
        assert float(weights[row, column] - far.mean()) > 5 * float(far.std())


def test_search_begins_with_the_one_region_that_matters() -> None:
    case = case_of(2, 5)
    found = search_regions(linear_detector(2, 5), case.normalised, case.detected, CELLS)
    side = found.shape[0] // CELLS
    regions = found.view(CELLS, side, CELLS, side)
    assert torch.equal(regions.amin((1, 3)), regions.amax((1, 3))), "a region has one importance"
    first = regions[:, 0, :, 0]
    assert divmod(int(first.argmax()), CELLS) == (2, 5)
    assert float(first.max()) == 1 and float(first.min()) == 0 and len(first.unique()) == CELLS**2


class CountingDetector:
    """A detector whose score is the brightness that is left of two regions, the second of half the weight."""

    def __init__(self) -> None:
        self.images = 0
        self.card = linear_detector(0, 0).card

    def predict(self, images: torch.Tensor) -> Outputs:
        self.images += len(images)
        score = (images[:, 0, :2, :2].mean((1, 2)) + 0.5 * images[:, 0, 2:, 2:].mean((1, 2))) / 2
        logits = torch.logit(score.clamp(1e-6, 1 - 1e-6))[None, :, None, None]  # [1, B, 1, 1]
        boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(1, len(images), 1, 4)
        return Outputs(logits, boxes)


def test_search_orders_regions_by_what_they_add() -> None:
    detector = CountingDetector()
    assert detector.card.scoring == "sigmoid"
    found = search_regions(
        detector, torch.ones(3, 4, 4), Detected(0, 0, torch.tensor([0.5, 0.5, 1.0, 1.0])), 2
    )  # type: ignore[arg-type]
    assert detector.images == 2 * (4 + 3 + 2 + 1)
    first, none, other, second = found[0, 0], found[0, 3], found[3, 0], found[3, 3]
    # F rises from 1.25 with the first region to 1.75 with the second, and the others add nothing.
    assert float(first) == 1 and float(second) == pytest.approx(0, abs=1e-5)
    assert max(float(none), float(other)) <= float(second) + 1e-5


def test_odam_leaves_out_what_speaks_against_the_class() -> None:
    case = case_of(2, 5)
    assert case.gradient is not None
    weights = EXPLAINERS["ODAM"](case)
    assert float(weights.max()) == pytest.approx(float(case.gradient.tokens[2 * CELLS + 5].sum()))
    dark = case.gradient._replace(tokens=-case.gradient.tokens)
    object.__setattr__(case, "gradient", dark)
    assert EXPLAINERS["ODAM"](case).abs().max() == 0


def test_masks_are_those_of_the_paper() -> None:
    batches = list(random_masks(70, (50, 90), seed=4))
    masks = torch.cat(batches)
    assert masks.shape == (70, 50, 90) and len(batches) == 3
    assert masks.min() >= 0 and masks.max() <= 1 and float(masks.mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(masks, torch.cat(list(random_masks(70, (50, 90), seed=4))))
    assert not torch.equal(masks, torch.cat(list(random_masks(70, (50, 90), seed=5))))
    assert float(masks.std(0).min()) > 0.2, "no pixel is always shown, or always hidden"
    near = torch.corrcoef(torch.stack([masks[:, 20, 40], masks[:, 20, 41]]))[0, 1]
    far = torch.corrcoef(torch.stack([masks[:, 20, 40], masks[:, 20, 70]]))[0, 1]
    assert near > 0.8 and abs(far) < 0.4, "cells are smooth and independent"


def test_similarity_is_overlap_times_cosine_times_objectness() -> None:
    detected = Detected(0, 0, torch.tensor([0.5, 0.5, 0.4, 0.4]))
    scores = torch.tensor([0.8, 0.1])
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.7, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4]])
    found = torch.tensor([[0.1, 0.05], [0.8, 0.1], [0.1, 0.9]])  # of three queries
    outputs = Outputs(found.logit()[None, None], boxes[None, None])
    value = detection_similarity(outputs, detected, scores, "sigmoid")
    cosine = torch.nn.functional.cosine_similarity(found, scores[None], dim=-1)
    expected = torch.tensor([1.0, 1 / 3, 1.0]) * cosine * torch.tensor([0.1, 0.8, 0.9])
    assert value.shape == (1,) and float(value) == pytest.approx(float(expected.max()), rel=1e-4)
    logits = torch.tensor([2.0, 0.0, 1.0])[None, None, None]  # softmax; the last is "no object"
    p = logits[0, 0, 0].softmax(-1)
    alone = detection_similarity(Outputs(logits, boxes[None, None, :1]), detected, p[:2], "softmax")
    assert float(alone) == pytest.approx(1 - float(p[2]), rel=1e-4)


def test_detections_of_an_image_share_its_masks() -> None:
    detector = linear_detector(1, 1)
    image = detector.card.preprocessing.normalise(bright_picture())
    sizes: list[int] = []
    predict = detector.predict

    def counted(images: torch.Tensor, *rest: object) -> Outputs:
        sizes.append(len(images))
        return predict(images)

    detector.predict = counted  # type: ignore[method-assign]
    whole = torch.tensor([0.5, 0.5, 0.6, 0.6])
    masked = MaskedImages(detector, image, [Detected(0, 0, whole), Detected(0, 0, whole / 2)], masks=40)
    assert masked.seconds == 0 and not sizes, "nothing runs before it is asked for"
    first, second = masked.map_of(0), masked.map_of(1)
    assert sizes == [1, 32, 8] and masked.seconds > 0
    assert first.shape == second.shape == (64, 64) and float(first.mean()) > float(second.mean())
