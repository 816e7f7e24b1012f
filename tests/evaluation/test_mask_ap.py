"""AP of masks against pycocotools, and data and models with and without masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detrscope.core.mask_pixels import enlarge_masks
from detrscope.core.postprocess import Scored, postprocess
from detrscope.core.types import Masks, Outputs
from detrscope.data.coco_masks import encode_mask, unpack_mask
from detrscope.evaluation.mask_ap import mask_average_precision
from detrscope.evaluation.mask_results import encode_masks, panoptic_segments
from tests.support.coco_problems import SUMMARY, pycocotools_evaluation
from tests.support.tiny_training import card

HEIGHT, WIDTH = 120, 160


def ellipse(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centre, radii = rng.uniform((0, 0), (HEIGHT, WIDTH)), np.exp(rng.uniform(1.2, 4.2, 2))
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def random_masks(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth as polygons and run lengths, crowds among them; results near it and anywhere."""
    rng = np.random.default_rng(seed)
    images = [{"id": int(i), "height": HEIGHT, "width": WIDTH} for i in (7, 3, 12)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for _ in range(int(rng.integers(0, 6))):
            mask, category = ellipse(rng), int(rng.integers(1, 3))
            if mask.sum() < 12:
                continue
            crowd = int(rng.random() < 0.2)
            ys, xs = np.nonzero(mask)
            box = [float(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
            shape: Any = encode_mask(mask)
            if not crowd and rng.random() < 0.5:
                x, y, w, h = box
                shape = [[x, y, x + w, y, x + w / 2, y + h]]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image["id"], "category_id": category, "bbox": box,
                    "area": float(mask.sum()), "iscrowd": crowd, "segmentation": shape,
                }
            )  # fmt: skip
            for _ in range(int(rng.integers(0, 3))):
                moved = np.roll(mask, rng.integers(-4, 5, 2), axis=(0, 1))
                results.append(_result(image, category, moved, rng))
        for _ in range(int(rng.integers(0, 4))):
            results.append(_result(image, int(rng.integers(1, 3)), ellipse(rng), rng))
    results.append(_result(images[0], 1, ellipse(rng), rng))
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _result(
    image: dict[str, Any], category: int, mask: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    score = round(float(rng.random()), 1)
    return {
        "image_id": image["id"], "category_id": category, "segmentation": encode_mask(mask), "score": score,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("seed", range(30))
def test_mask_ap_equals_pycocotools(seed: int) -> None:
    ground_truth, results = random_masks(seed)
    expected = pycocotools_evaluation(ground_truth, results, "segm")
    boxed = [{**row, "bbox": [0.0, 0.0, 1.0, 1.0]} for row in results]  # boxes must not matter
    summary = mask_average_precision(ground_truth, boxed).summary()
    ours = [-1.0 if summary[key] is None else summary[key] for key in SUMMARY]
    np.testing.assert_allclose(ours, list(expected.stats), rtol=0, atol=1e-12)


def test_problems_are_varied() -> None:
    values = {mask_average_precision(*_boxed(seed)).AP for seed in range(10)}
    assert len(values) > 7


def _boxed(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    ground_truth, results = random_masks(seed)
    return ground_truth, [{**row, "bbox": [0.0, 0.0, 1.0, 1.0]} for row in results]


def test_rows_without_masks_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    ground_truth, results = _boxed(1)
    whole = mask_average_precision(ground_truth, results)
    assert "left out" not in caplog.text
    bare = {
        "id": 99,
        "image_id": 7,
        "category_id": 1,
        "bbox": [1.0, 1.0, 9.0, 9.0],
        "area": 81.0,
        "iscrowd": 0,
    }
    more = {**ground_truth, "annotations": [*ground_truth["annotations"], bare]}
    wrong = {**results[0], "segmentation": {"size": [3, 3], "counts": [9]}}
    part = mask_average_precision(more, [*results, wrong])
    assert part == whole or part.AP == whole.AP
    count = len(ground_truth["annotations"]) + 1
    assert f"1 of {count} annotations have no mask" in caplog.text
    assert f"1 of {len(results) + 1} results have no mask" in caplog.text


def scored(masks: torch.Tensor, classes: list[int], scores: list[float]) -> Scored:
    count = len(classes)
    return Scored(
        torch.zeros(count, 4), torch.tensor(scores), torch.tensor(classes), torch.arange(count), masks=masks
    )


def test_padding_is_cut_off_before_masks_are_enlarged() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 6, 9, generator=generator)
    padded = torch.full((3, 8, 12), -20.0)
    padded[:, :6, :9] = image
    whole = enlarge_masks(image, (1.0, 1.0), 60, 90)
    cut = enlarge_masks(padded, (6 / 8, 9 / 12), 60, 90)
    inner = (slice(None), slice(5, -5), slice(5, -5))  # at its border the padding is mixed in
    assert torch.equal(whole[inner], cut[inner]) and whole[inner].any() and not whole[inner].all()


def test_masks_belong_to_their_queries() -> None:
    logits = torch.full((2, 1, 3, 3), -5.0)
    logits[-1, 0, 0, 0], logits[-1, 0, 1, 1], logits[-1, 0, 2, 1] = 1.0, 9.0, 5.0
    boxes = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([torch.full((4, 4), float(q)) for q in range(3)])[None]
    (found,) = postprocess(Outputs(logits, boxes, masks=Masks(masks)), card(), [(8, 8)])
    assert found.masks is not None
    assert found.masks[:, 0, 0].tolist() == found.query_ids.tolist() == [1, 2, 0]
    (before,) = postprocess(Outputs(logits, boxes, masks=Masks(masks)), card(), [(8, 8)], layer=0)
    assert before.masks is None


def test_encoded_masks_decode_to_the_same_pixels() -> None:
    masks = torch.randn(11, 5, 7, generator=torch.Generator().manual_seed(0))
    rows = encode_masks(scored(masks, [0] * 11, [0.9] * 11), 40, 56)
    wanted = enlarge_masks(masks, (1.0, 1.0), 40, 56).numpy()
    assert all((unpack_mask(row) == mask).all() for row, mask in zip(rows, wanted, strict=True))


def test_segments_share_out_the_pixels() -> None:
    masks = torch.full((4, 10, 10), -3.0)
    masks[0, :, :5] = 3.0  # a thing
    masks[1, :5, 5:] = 2.0  # stuff, in two parts
    masks[2, 5:, 5:] = 1.0
    masks[3] = 9.0  # not confident
    segments = panoptic_segments(scored(masks, [0, 1, 1, 2], [0.99, 0.95, 0.9, 0.3]), 10, 10, {1})
    assert [segment.class_index for segment in segments] == [0, 1]
    assert int(segments[0].mask.sum()) == int(segments[1].mask.sum()) == 50
    assert not (segments[0].mask & segments[1].mask).any()


def test_segments_of_a_few_pixels_leave_theirs_to_the_others() -> None:
    masks = torch.full((2, 10, 10), 1.0)
    masks[1, :2, :2] = 2.0
    masks[1, 2:, :], masks[1, :, 2:] = -1.0, -1.0
    segments = panoptic_segments(scored(masks, [0, 1], [0.99, 0.9]), 10, 10, set())
    assert [(s.class_index, int(s.mask.sum())) for s in segments] == [(0, 100)]
    assert panoptic_segments(scored(masks, [0, 1], [0.1, 0.2]), 10, 10, set()) == []
