"""Random detection problems and their evaluation by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SUMMARY = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
SUMMARY += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]


def random_problem(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and results with crowds, empty images, ties and gaps in ids."""
    rng = np.random.default_rng(seed)
    ids = sorted(rng.choice(1000, size=rng.integers(1, 5), replace=False).tolist())
    images = [{"id": int(i)} for i in rng.choice(10_000, size=rng.integers(1, 9), replace=False)]
    whole = rng.random() < 0.5  # whole pixels make ties of IoU

    def box() -> list[float]:
        size = np.exp(rng.uniform(np.log(4), np.log(300), 2))
        values = [*rng.uniform(0, 300, 2), *size]
        return [float(round(v)) if whole else float(v) for v in values]

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for _ in range(rng.choice([0, 1, 3, 12])):
            b = box()
            area = b[2] * b[3] * rng.choice([1.0, 0.5])
            category = int(
                rng.choice(ids[: max(1, len(ids) - 1)])
            )  # the last class may have results and no boxes
            crowd = int(rng.random() < 0.15)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": b,
                    "area": float(area),
                    "iscrowd": crowd,
                }
            )
            if rng.random() < 0.7:  # something near it, more than once
                for _ in range(rng.integers(1, 3)):
                    near = [v + rng.normal(0, 0.05 * max(b[2:])) for v in b]
                    near = b if rng.random() < 0.2 else [*near[:2], *(max(1.0, v) for v in near[2:])]
                    results.append(
                        _result(image, int(rng.choice(ids)) if rng.random() < 0.1 else category, near, rng)
                    )
        for _ in range(rng.choice([0, 2, 130], p=[0.4, 0.5, 0.1])):
            results.append(_result(image, int(rng.choice(ids)), box(), rng))
    results.append(_result(images[0], ids[0], box(), rng))  # pycocotools cannot read empty results
    categories = [{"id": i, "name": f"class {i}"} for i in rng.permutation(ids).tolist()]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _result(
    image: dict[str, int], category: int, box: list[float], rng: np.random.Generator
) -> dict[str, Any]:
    score = round(float(rng.random()), 1)  # many ties
    return {"image_id": image["id"], "category_id": category, "bbox": [float(v) for v in box], "score": score}


def pycocotools_evaluation(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], shape: str = "bbox"
) -> COCOeval:
    """Return the evaluation of pycocotools, with `stats` and `eval` filled."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = copy.deepcopy(ground_truth)
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(copy.deepcopy(results)), shape)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
