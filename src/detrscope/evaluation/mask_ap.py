"""COCO AP of masks; hotcoco does the matching, as of boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detrscope.console import log
from detrscope.data.coco_masks import pack_mask
from detrscope.evaluation.coco_ap import Evaluation, average_precision


def has_any_mask(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether any annotation or result has a mask."""
    return any(row.get("segmentation") for row in rows)


def mask_average_precision(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> Evaluation:
    """Compute COCO AP and AR of masks; areas are those of the masks.

    Annotations and results whose mask is missing or cannot be decoded are left out, with a warning that counts them.

    Args:
        ground_truth: COCO dataset, images with their sizes, annotations with `segmentation`. Not changed.
        results: COCO results with `segmentation`. Not changed.

    Raises:
        UserError: as `average_precision`.
    """
    sizes = {image["id"]: (image.get("height", 0), image.get("width", 0)) for image in ground_truth["images"]}
    annotations = _with_masks("annotations", ground_truth["annotations"], sizes)
    return average_precision(
        {**ground_truth, "annotations": annotations}, _with_masks("results", results, sizes), "segm"
    )


def _with_masks(
    what: str, rows: Sequence[Mapping[str, Any]], sizes: Mapping[Any, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Return the rows that have a mask, as compressed run lengths."""
    packed = [(row, pack_mask(row.get("segmentation"), *sizes.get(row["image_id"], (0, 0)))) for row in rows]
    kept = [{**row, "segmentation": mask} for row, mask in packed if mask is not None]
    if len(kept) < len(rows):
        log.warning(
            "mask AP: %d of %d %s have no mask of the size of their image and are left out",
            len(rows) - len(kept),
            len(rows),
            what,
        )
    return kept
