"""Why a detector's AP is what it is: every error with the stage where it arose, and what each stage costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from detrscope.console import progress
from detrscope.core.geometry import Geometry
from detrscope.core.postprocess import postprocess
from detrscope.core.probe import Probe
from detrscope.core.verdicts import StageCost, Verdict
from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo, TransformedDataset
from detrscope.data.loader import DetectionLoader
from detrscope.data.transforms import EvalTransform
from detrscope.evaluation.class_matching import match_classes
from detrscope.evaluation.coco_ap import Evaluation, average_precision
from detrscope.evaluation.predict import Result, coco_results
from detrscope.explain.advice import Advisor
from detrscope.explain.duplicates import prove_duplicates
from detrscope.explain.image_predictions import Crowds, Objects, image_predictions
from detrscope.explain.stages import image_verdicts
from detrscope.inference.detector import Detector

MOST_PROVED = 20  # duplicates for which an edit is looked for
SURE = 1.0  # score of an object that an oracle adds


@dataclass(frozen=True)
class Why:
    """Errors of a model on a dataset, and the stages where they arose.

    Attributes:
        model: name of the model.
        source: name of the dataset.
        images: number of images.
        objects: number of objects, without crowds.
        threshold: minimum score of a detection.
        evaluation: AP of the model as it is.
        verdicts: every missed object and every false detection.
        costs: what each stage costs, the dearest first.
        advice: what to change, the most important first.
        results: all predictions in COCO's format, with the category ids of the dataset.
    """

    model: str
    source: str
    images: int
    objects: int
    threshold: float
    evaluation: Evaluation
    verdicts: tuple[Verdict, ...]
    costs: tuple[StageCost, ...]
    advice: tuple[str, ...]
    results: tuple[Result, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the results as JSON values."""
        return {
            **{k: getattr(self, k) for k in ("model", "source", "images", "objects", "threshold")},
            **self.evaluation.summary(),
            "stages": [vars(cost) for cost in self.costs],
            "advice": list(self.advice),
            "errors": [verdict.to_json() for verdict in self.verdicts],
        }


@dataclass(frozen=True)
class _Image:
    """What is kept of an image.

    Attributes:
        info: its id and file.
        results: all predictions of the classes that the dataset has.
        queries: query of each result.
        objects: number of its objects.
        token: size of a token of the finest map in it.
        query_count: queries of the model.
        verdicts: what went wrong in it.
    """

    info: ImageInfo
    results: list[Result]
    queries: list[int]
    objects: int
    token: tuple[float, float]
    query_count: int
    verdicts: list[Verdict]


def explain_errors(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    threshold: float = 0.5,
    workers: int = 0,
    name: str = "",
    prove: int = MOST_PROVED,
) -> Why:
    """Return every error of a model on a dataset with the stage where it arose.

    Args:
        detector: the model.
        dataset: images and ground truth; classes are matched by name.
        threshold: minimum score of a detection.
        workers: processes that read images; 0 reads them in this one.
        name: name of the model in the report.
        prove: duplicates for which an edit is looked for that removes them.

    Raises:
        UserError: the model lacks a class that has boxes, or an image cannot be read.
    """
    card = detector.card
    with_boxes = {a.category_id for rows in dataset.annotations.values() for a in rows}
    dataset_ids = match_classes(card.classes, dataset.classes, with_boxes)  # by the model's id
    images = _examined(detector, dataset, dataset_ids, threshold, workers)
    results = [result for image in images for result in image.results]
    ground_truth = dataset.coco_json()
    evaluation = average_precision(ground_truth, results)
    verdicts = [verdict for image in images for verdict in image.verdicts]
    verdicts = prove_duplicates(detector, verdicts, threshold, prove)
    category = {
        own: dataset_ids[i]
        for i, own in zip(card.classes.ids, card.classes.names, strict=True)
        if i in dataset_ids
    }
    costs = _costs(verdicts, images, ground_truth, results, evaluation, category)
    advisor = Advisor(
        verdicts,
        queries=max((image.query_count for image in images), default=0),
        token=_median_token(images) if images else (1.0, 1.0),
        fullest=max((image.objects for image in images), default=0),
        preprocessing=card.preprocessing,
    )
    return Why(
        name or card.variant,
        dataset.name,
        len(images),
        sum(image.objects for image in images),
        threshold,
        evaluation,
        tuple(verdicts),
        costs,
        tuple(advisor.advise(costs)),
        tuple(results),
    )


def _examined(
    detector: Detector,
    dataset: DetectionDataset,
    dataset_ids: Mapping[int, int],
    threshold: float,
    workers: int,
) -> list[_Image]:
    """Run the model over the images, one by one, and say what went wrong in each."""
    card, examined = detector.card, []
    samples = TransformedDataset(dataset, EvalTransform(card.preprocessing), cache=False)
    loader = DetectionLoader(samples, [[index] for index in range(len(dataset))], workers)
    stride: tuple[float, float] | None = None
    known = {card.classes.index_of(ours): theirs for ours, theirs in dataset_ids.items()}
    index_of = {theirs: index for index, theirs in known.items()}
    with progress() as bar:
        task = bar.add_task("looking for errors", total=len(dataset))
        for (batch, _, _), info in zip(loader, dataset.images, strict=True):
            if stride is None:
                stride = _stride(detector, info)
            size = info.height, info.width
            # Each image is a batch of its own. The probe records nothing: exported graphs give proposals with one only.
            geometry = Geometry.of_resize(*size, (batch.images.shape[-2], batch.images.shape[-1]))
            outputs = detector.predict(batch.images, None, Probe([], values=False, geometry=geometry))
            (scored,) = postprocess(outputs, card, [size])
            labels, queries = scored.class_indices.tolist(), scored.query_ids.tolist()
            kept = [i for i, label in enumerate(labels) if label in known]
            rows = coco_results(scored, info.id, card.classes)
            annotated = [a for a in dataset.annotations[info.id] if a.category_id in index_of]
            objects = _objects([a for a in annotated if not a.iscrowd], index_of)
            crowds = _objects([a for a in annotated if a.iscrowd], index_of)
            predictions = image_predictions(outputs, card, size, stride)
            verdicts = image_verdicts(
                info.id,
                str(info.path),
                predictions,
                objects,
                card.classes.names,
                threshold,
                Crowds(crowds.boxes_xyxy, crowds.labels),
                known,
            )
            examined.append(
                _Image(
                    info,
                    [{**rows[i], "category_id": known[labels[i]]} for i in kept],
                    [queries[i] for i in kept],
                    len(objects.labels),
                    predictions.token,
                    outputs.logits.shape[2],
                    verdicts,
                )
            )
            bar.advance(task)
    return examined


def _objects(annotations: Sequence[Annotation], index_of: Mapping[int, int]) -> Objects:
    """Return annotated objects with their boxes as declared, which AP measures against."""
    boxes = torch.tensor([a.declared_xywh or a.bbox_xywh for a in annotations], dtype=torch.float32).view(
        -1, 4
    )
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([index_of[a.category_id] for a in annotations], dtype=torch.int64)
    return Objects(boxes, labels, [a.id for a in annotations])


def _stride(detector: Detector, info: ImageInfo) -> tuple[float, float]:
    """Return width and height of a token of the finest feature map in pixels of the model's input."""
    trace = detector.trace(info.path)
    finest, (height, width) = trace.levels[0], trace.geometry.padded
    return width / finest.width, height / finest.height


def _costs(
    verdicts: Sequence[Verdict],
    images: Sequence[_Image],
    ground_truth: Mapping[str, Any],
    results: Sequence[Result],
    evaluation: Evaluation,
    category: Mapping[str, int],
) -> tuple[StageCost, ...]:
    """Return the AP that each stage would give back: its missed objects found, its false detections gone."""
    place: dict[tuple[Any, int | None, int | None], Result] = {
        (image.info.id, query, result["category_id"]): result
        for image in images
        for query, result in zip(image.queries, image.results, strict=True)
    }
    costs = []
    for stage in dict.fromkeys(verdict.stage for verdict in verdicts):
        of_stage = [verdict for verdict in verdicts if verdict.stage == stage]
        gone = {
            id(place.get((v.image_id, v.query, category.get(v.name)))) for v in of_stage if v.kind == "false"
        }
        mended = [result for result in results if id(result) not in gone]
        for v in of_stage:
            if v.kind == "missed":
                x0, y0, x1, y1 = v.box_xyxy
                box = [x0, y0, x1 - x0, y1 - y0]
                mended.append(
                    {"image_id": v.image_id, "category_id": category[v.name], "bbox": box, "score": SURE}
                )
        better = average_precision(ground_truth, mended)
        costs.append(
            StageCost(
                stage,
                sum(v.kind == "missed" for v in of_stage),
                sum(v.kind == "false" for v in of_stage),
                (better.AP or 0.0) - (evaluation.AP or 0.0),
                (better.AP50 or 0.0) - (evaluation.AP50 or 0.0),
            )
        )
    return tuple(sorted(costs, key=lambda cost: -cost.ap))


def _median_token(images: Sequence[_Image]) -> tuple[float, float]:
    widths, heights = zip(*(image.token for image in images), strict=True)
    return statistics.median(widths), statistics.median(heights)
