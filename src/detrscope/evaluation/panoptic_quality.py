"""Panoptic quality (Kirillov et al. 2019, arXiv:1801.00868, section 4); hotcoco computes it.

A predicted segment and one of the ground truth of the same class are a match where their IoU exceeds 0.5. SQ is the
mean IoU of the matches, RQ the F1 of the segments, and PQ their product, of each class; the mean over classes is
reported for all, for things and for stuff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detrscope.core.classes import ClassTable
from detrscope.core.distributed import gather_objects
from detrscope.core.postprocess import Scored
from detrscope.data.coco_masks import encode_mask, pack_mask
from detrscope.data.dataset import DetectionDataset, SampleInfo
from detrscope.evaluation.mask_results import panoptic_segments


@dataclass(frozen=True)
class Quality:
    """PQ, SQ and RQ over some classes, as fractions; None where no class has a segment."""

    PQ: float | None
    SQ: float | None
    RQ: float | None
    classes: int


@dataclass(frozen=True)
class PanopticQuality:
    """Panoptic quality of a dataset."""

    all: Quality
    things: Quality
    stuff: Quality


def is_panoptic(dataset: DetectionDataset) -> bool:
    """Return whether the categories of a dataset say which are things and which are stuff."""
    categories = dataset.details.get("categories", ())
    return bool(categories) and all("isthing" in row for row in categories)


def panoptic_quality(
    ground_truth: Mapping[str, Any], segments: Sequence[Mapping[str, Any]]
) -> PanopticQuality:
    """Compute panoptic quality.

    Args:
        ground_truth: COCO dataset whose annotations are segments with masks, crowds included, and whose categories have
            `isthing`. Pixels of no segment are void: predictions there count neither for nor against.
        segments: predicted ones: `image_id`, `category_id`, `segmentation` (run lengths); those of an image must not
            overlap.
    """
    from hotcoco import COCO, panoptic

    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    truth = [_annotation(n, row, sizes) for n, row in enumerate(ground_truth["annotations"], start=1)]
    found = [_annotation(n, row, sizes) for n, row in enumerate(segments, start=1)]
    head = {key: ground_truth[key] for key in ("images", "categories")}
    evaluation = panoptic.PanopticEval(
        COCO({**head, "annotations": [row for row in truth if row]}),
        COCO({**head, "annotations": [row for row in found if row]}),
    )
    evaluation.evaluate()
    results = evaluation.results()
    return PanopticQuality(*(_quality(results.get(name)) for name in ("All", "Things", "Stuff")))


def _annotation(
    number: int, row: Mapping[str, Any], sizes: Mapping[Any, tuple[int, int]]
) -> dict[str, Any] | None:
    """Return a segment as hotcoco takes it; None where it has no mask."""
    from hotcoco import mask as rle

    packed = pack_mask(row.get("segmentation"), *sizes[row["image_id"]])
    if packed is None:
        return None
    kept = {key: row[key] for key in ("image_id", "category_id")}
    area, box = float(rle.area(packed)), [float(v) for v in rle.toBbox(packed)]
    return {
        **kept,
        "id": number,
        "segmentation": packed,
        "area": area,
        "bbox": box,
        "iscrowd": row.get("iscrowd", 0),
    }


def _quality(row: Mapping[str, Any] | None) -> Quality:
    if row is None or not row["n"]:
        return Quality(None, None, None, 0)
    return Quality(row["pq"], row["sq"], row["rq"], int(row["n"]))


class SegmentRecorder:
    """Recorder of the panoptic segments of every image while a dataset is predicted.

    Args:
        classes: of the model.
        dataset_ids: category ids of the dataset by those of the model.
        dataset: whose categories say what is stuff.
    """

    def __init__(
        self, classes: ClassTable, dataset_ids: Mapping[int, int], dataset: DetectionDataset
    ) -> None:
        stuff = {row["id"] for row in dataset.details["categories"] if not row["isthing"]}
        self._ids = [dataset_ids.get(own) for own in classes.ids]
        self._stuff = {index for index, category in enumerate(self._ids) if category in stuff}
        self._segments: dict[Any, list[dict[str, Any]]] = {}

    def __call__(self, scored: Scored, info: SampleInfo) -> None:
        """Record the segments of an image."""
        self._segments[info.image_id] = [
            {
                "image_id": info.image_id,
                "category_id": self._ids[segment.class_index],
                "segmentation": encode_mask(segment.mask.numpy()),
                "score": segment.score,
            }
            for segment in panoptic_segments(scored, *info.size, self._stuff)
            if self._ids[segment.class_index] is not None
        ]

    def of_all_processes(self) -> list[dict[str, Any]]:
        """Return the segments of all images; every process must call it."""
        merged: dict[Any, list[dict[str, Any]]] = {}
        for part in gather_objects(self._segments):
            merged.update(part)
        return [segment for image in sorted(merged, key=str) for segment in merged[image]]
