"""Compare two or more models on the same images: AP, speed, the objects each finds, and the boxes NMS removes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torchvision.ops import box_area, clip_boxes_to_image

from detrscope.commands.compared_models import AnyDetector, ComparedModel, open_models
from detrscope.commands.comparison import (
    Comparison,
    ModelDifference,
    ModelReport,
    Timing,
    write_comparison,
)
from detrscope.commands.comparison_images import ComparedImage, images_to_compare
from detrscope.commands.comparison_pictures import write_pictures
from detrscope.console import progress
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_folder
from detrscope.core.types import Detections
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_reader import ImageSource
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.bootstrap import ap_difference
from detrscope.evaluation.class_matching import match_classes
from detrscope.evaluation.coco_ap import average_precision
from detrscope.evaluation.object_matching import LabelledBoxes, match_objects
from detrscope.evaluation.predict import Result, coco_results
from detrscope.inference.image_prediction import NO_BOXES, BoxCounts, ImagePrediction, suppress
from detrscope.inference.latency import describe_machine
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions

ON_CROWD = 0.5  # share of a detection inside a crowd from which it is not counted as extra


@dataclass
class _Measured:
    """What is collected of one model, image by image."""

    model: ComparedModel
    class_rows: Mapping[int, int]  # category id of the model -> row that stands for the class in all models
    dataset_ids: Mapping[int, int]  # category id of the model -> that of the dataset
    results: list[Result] = field(default_factory=list)
    suppressed: list[Result] = field(default_factory=list)  # those that NMS would leave
    boxes: BoxCounts = NO_BOXES
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    detections: list[Detections] = field(default_factory=list)  # of each image, at the threshold
    found: list[Tensor] = field(default_factory=list)  # of each image: bool [objects]
    extra: int = 0

    def of_dataset(self, results: Sequence[Result]) -> list[Result]:
        """Return the results of classes that the dataset has, with its category ids."""
        ids = self.dataset_ids
        return [{**r, "category_id": ids[r["category_id"]]} for r in results if r["category_id"] in ids]

    def labelled(self, detections: Detections) -> LabelledBoxes:
        """Return detections with rows of `class_rows` as labels, -1 for classes that the dataset lacks."""
        rows = [self.class_rows.get(label, -1) for label in detections.labels.tolist()]
        return LabelledBoxes(detections.boxes_xyxy, torch.tensor(rows, dtype=torch.int64))


def compare(
    models: Sequence[str | Path | AnyDetector],
    sources: ImageSource | list[ImageSource] | tuple[ImageSource, ...] = (),
    *,
    data: str | Path | DetectionDataset | None = None,
    split: str = "val",
    threshold: float = 0.5,
    pictures: int = 8,
    out: str | Path | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Comparison:
    """Compare models on the images of a dataset, or on images without ground truth.

    The models take turns on each image, so that a machine that slows down does so for all of them.

    Args:
        models: two or more names, files, folders or detectors. Beside what `load` takes: `fasterrcnn-r50-fpn` and other
            Faster R-CNN of torchvision, files of their weights, and names with weights such as `detr-r50=FILE`.
        sources: images to draw. Without `data` everything is measured on them.
        data: a dataset, or a source that `open_dataset` understands, to measure on.
        split: split of `data`.
        threshold: minimum score of boxes that are counted, matched with objects and drawn. AP has none.
        pictures: without sources, most images of `data` to draw: those that the models disagree on most.
        out: folder for `compare.json`, `compare.csv` and pictures; None writes nothing.
        load_options: how to load models that are given by name.

    Raises:
        UserError: fewer than two models, neither sources nor data, an unreadable image, or a model that lacks classes
            of the dataset.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {threshold}: expected a score between 0 and 1")
    if pictures < 0:
        raise UserError(f"pictures {pictures}: expected 0 or more")
    if out is not None:
        check_writable_folder(out)
    dataset = open_dataset(data, split) if isinstance(data, str | Path) else data
    images = images_to_compare(sources if isinstance(sources, list | tuple) else [sources], dataset)
    measured = _measured(open_models(models, load_options), dataset)
    _run(measured, images, threshold)
    counted = [image for image in images if image.counted]
    comparison = Comparison(
        models=tuple(_report(each, dataset, counted) for each in measured),
        images=len(counted),
        objects=None if dataset is None else sum(len(image.objects) for image in counted),
        threshold=threshold,
        only=_only(measured, images, dataset is not None),
        machine=describe_machine(),
        differences=() if dataset is None else _differences(measured, dataset),
    )
    if out is None:
        return comparison
    drawn = _images_to_draw(measured, images, pictures)
    names = [each.model.name for each in measured]
    columns = [[each.detections[i] for each in measured] for i in drawn]
    found = [[each.found[i] for each in measured] for i in drawn]
    files = write_pictures(Path(out), [images[i] for i in drawn], names, columns, found)
    comparison = replace(comparison, pictures=files)
    write_comparison(Path(out), comparison)
    return comparison


def _measured(models: Sequence[ComparedModel], dataset: DetectionDataset | None) -> list[_Measured]:
    """Return where the measurements of each model go, with its classes matched.

    Raises:
        UserError: a model lacks a class that has boxes in the dataset.
    """
    if dataset is None:  # a class is the same where its name is
        rows = {name: row for row, name in enumerate(dict.fromkeys(n for m in models for n in _folded(m)))}
        return [
            _Measured(m, {i: rows[n] for i, n in zip(m.classes.ids, _folded(m), strict=True)}, {})
            for m in models
        ]
    with_boxes = {a.category_id for rows in dataset.annotations.values() for a in rows}
    measured = []
    for model in models:
        try:
            ids = match_classes(model.classes, dataset.classes, with_boxes)
        except UserError as error:
            raise UserError(f"{model.name}: {error}") from None
        measured.append(_Measured(model, {a: dataset.classes.index_of(b) for a, b in ids.items()}, ids))
    return measured


def _folded(model: ComparedModel) -> list[str]:
    return [name.strip().casefold() for name in model.classes.names]


def _run(measured: Sequence[_Measured], images: Sequence[ComparedImage], threshold: float) -> None:
    """Run every model on every image, in an order that changes from image to image."""
    for each in measured:
        each.model.predict_image(images[0].read())  # compiles kernels and allocates memory
    with progress() as bar:
        task = bar.add_task("comparing", total=len(images))
        for number, image in enumerate(images):
            pixels = image.read()
            first = number % len(measured)
            for each in (*measured[first:], *measured[:first]):
                start, cpu_start = time.perf_counter(), time.process_time()
                prediction = each.model.predict_image(pixels)
                if image.counted:
                    each.seconds.append(time.perf_counter() - start)
                    each.cpu_seconds.append(time.process_time() - cpu_start)
                _collect(each, image, prediction, pixels, threshold)
            bar.advance(task)


def _collect(
    each: _Measured, image: ComparedImage, prediction: ImagePrediction, pixels: Tensor, threshold: float
) -> None:
    """Add the predictions of one model in one image to its measurements."""
    scored, classes = prediction.scored, each.model.classes
    detections = scored.detections(
        classes, threshold, height=pixels.shape[-2], width=pixels.shape[-1], source=image.name
    )
    labelled = each.labelled(detections)
    matches = match_objects(image.objects, labelled)
    each.detections.append(detections)
    each.found.append(matches >= 0)
    if not image.counted:
        return
    each.boxes += prediction.counts(threshold)
    on_crowds = _on_crowds(labelled, image.crowds)
    on_crowds[matches[matches >= 0]] = True
    each.extra += int((~on_crowds).sum())
    each.results += each.of_dataset(coco_results(scored, image.image_id, classes))
    each.suppressed += each.of_dataset(coco_results(suppress(scored), image.image_id, classes))


def _on_crowds(detections: LabelledBoxes, crowds: LabelledBoxes) -> Tensor:
    """Return which detections lie mostly inside a crowd of their class: bool [detections]."""
    inside = torch.zeros(len(detections), dtype=torch.bool)
    for box, label in zip(crowds.boxes_xyxy.tolist(), crowds.labels.tolist(), strict=True):
        moved = detections.boxes_xyxy - torch.tensor([box[0], box[1], box[0], box[1]])
        shared = box_area(clip_boxes_to_image(moved, (box[3] - box[1], box[2] - box[0])))
        share = shared / box_area(detections.boxes_xyxy).clamp(min=1e-9)
        inside |= (share >= ON_CROWD) & (detections.labels == label)
    return inside


def _report(
    each: _Measured, dataset: DetectionDataset | None, counted: Sequence[ComparedImage]
) -> ModelReport:
    model = each.model
    found = sum(int(mask.sum()) for mask in each.found)
    seconds = each.seconds
    truth = None if dataset is None else dataset.coco_json()
    return ModelReport(
        name=model.name,
        variant=model.card.variant,
        source=model.card.source,
        kind=model.kind,
        classes=len(model.classes),
        parameters=model.parameters,
        device=model.device,
        precision=model.precision,
        timing=Timing(
            1000 * median(seconds),
            1000 * min(seconds),
            1000 * max(seconds),
            1000 * median(each.cpu_seconds),
        ),
        boxes=each.boxes,
        found=None if dataset is None else found,
        extra=None if dataset is None else each.extra,
        evaluation=None if truth is None else average_precision(truth, each.results),
        AP_with_nms=None if truth is None else average_precision(truth, each.suppressed).AP,
    )


def _differences(measured: Sequence[_Measured], dataset: DetectionDataset) -> tuple[ModelDifference, ...]:
    """Return the differences of AP of every two models, each with its interval."""
    truth, found = dataset.coco_json(), []
    pairs = list(combinations(range(len(measured)), 2))
    with progress() as bar:
        task = bar.add_task("drawing samples of the images", total=len(pairs))
        for first, second in pairs:
            difference = ap_difference(truth, measured[first].results, measured[second].results)
            if difference is not None:
                found.append(ModelDifference(first, second, difference))
            bar.advance(task)
    return tuple(found)


def _only(
    measured: Sequence[_Measured], images: Sequence[ComparedImage], has_objects: bool
) -> tuple[tuple[int, ...], ...]:
    """Return how much each model finds that each other one does not; see `Comparison.only`."""

    def count(a: _Measured, b: _Measured) -> int:
        if has_objects:
            return sum(int((x & ~y).sum()) for x, y in zip(a.found, b.found, strict=True))
        pairs = zip(a.detections, b.detections, images, strict=True)
        return sum(int((match_objects(a.labelled(x), b.labelled(y)) < 0).sum()) for x, y, _ in pairs)

    return tuple(tuple(count(a, b) for b in measured) for a in measured)


def _images_to_draw(measured: Sequence[_Measured], images: Sequence[ComparedImage], most: int) -> list[int]:
    """Return indices of the images that the user named; else of those with most objects that some models miss."""
    if named := [i for i, image in enumerate(images) if image.named]:
        return named
    disagreements = []
    for i in range(len(images)):
        masks = torch.stack([each.found[i] for each in measured])  # [models, objects]
        disagreements.append(int((masks.any(dim=0) & ~masks.all(dim=0)).sum()))
    order = sorted(range(len(images)), key=lambda i: -disagreements[i])
    return order[:most]
