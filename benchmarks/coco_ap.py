"""COCO AP beside pycocotools: 1,000 images, 95 detections each, 80 classes; the same bits, checked.

python -m benchmarks.coco_ap [--rounds 5]

Ours includes the check of its input, precision-recall curves and score thresholds; both begin with plain dictionaries.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.ratio import compare, machine
from detrscope.evaluation.coco_ap import average_precision

IMAGES, CLASSES, OBJECTS, NEAR, ELSEWHERE = 1000, 80, 7, 4, 67


def problem(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth, and for each image 28 results near its 7 boxes and 67 elsewhere."""
    generator = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, IMAGES + 1):
        boxes = np.concatenate(
            [generator.uniform(0, 500, (OBJECTS, 2)), generator.uniform(5, 200, (OBJECTS, 2))], 1
        )
        for box in boxes:
            category = int(generator.integers(1, CLASSES + 1))
            fields = {"image_id": image, "category_id": category, "bbox": box.tolist()}
            annotations.append(
                {**fields, "id": len(annotations) + 1, "area": float(box[2] * box[3]), "iscrowd": 0}
            )
            for near in box + generator.normal(0, 0.08, (NEAR, 4)) * box[[2, 3, 2, 3]]:
                values = [*near[:2].tolist(), *np.maximum(near[2:], 1).tolist()]
                results.append({**fields, "bbox": values, "score": float(generator.random())})
        for _ in range(ELSEWHERE):
            values = [*generator.uniform(0, 500, 2).tolist(), *generator.uniform(5, 200, 2).tolist()]
            category = int(generator.integers(1, CLASSES + 1))
            score = float(generator.random())
            results.append({"image_id": image, "category_id": category, "bbox": values, "score": score})
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    return {
        "images": [{"id": i} for i in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": categories,
    }, results


def by_pycocotools(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """Return the twelve numbers of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = ground_truth
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def main() -> None:
    """Check that the numbers are the same, then time both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ground_truth, results = problem(0)
    print(machine())
    theirs = by_pycocotools(copy.deepcopy(ground_truth), copy.deepcopy(results))
    ours = list(average_precision(ground_truth, results).summary().values())
    assert ours == theirs, "the numbers differ"
    # pycocotools writes into its input, so that it gets a copy for each round, made before the clock starts
    copies = iter([copy.deepcopy((ground_truth, results)) for _ in range(arguments.rounds + 1)])
    gc.collect()
    gc.freeze()  # the copies' millions of objects are not searched in either side's time
    compare(
        f"AP of {IMAGES} images, {len(results)} results",
        {
            "pycocotools": lambda: by_pycocotools(*next(copies)),
            "detrscope": lambda: average_precision(ground_truth, results),
        },
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
