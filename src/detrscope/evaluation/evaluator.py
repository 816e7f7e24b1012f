"""COCO AP of a model on a dataset, as the command `evaluate` and the training loop compute it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from detrscope.console import log
from detrscope.core.model_card import ModelCard
from detrscope.core.operating_points import ThresholdTable
from detrscope.data.dataset import DetectionDataset
from detrscope.evaluation.class_matching import match_classes
from detrscope.evaluation.coco_ap import Evaluation, average_precision
from detrscope.evaluation.mask_ap import has_any_mask, mask_average_precision
from detrscope.evaluation.panoptic_quality import SegmentRecorder, is_panoptic, panoptic_quality
from detrscope.evaluation.predict import (
    Predict,
    PredictImage,
    Result,
    predict_dataset,
    predict_images,
)
from detrscope.evaluation.threshold_curves import threshold_table


class ModelEvaluation(NamedTuple):
    """AP of a model, and the predictions it was computed from."""

    evaluation: Evaluation
    results: list[Result]  # with the category ids of the dataset, of the classes that it has
    most_predictions: int  # in one image, of all classes; 0 without predictions
    thresholds: ThresholdTable  # for the model's card, with its category ids


class Evaluator:
    """Evaluates models of the same classes on a dataset.

    Args:
        dataset: Images and ground truth.
        card: Classes, preprocessing and scoring of the models.
        batch_size: Images in a batch.
        workers: Number of processes that read images; 0 reads them in this one.

    Raises:
        UserError: the models lack a class that has boxes in the dataset.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        card: ModelCard,
        *,
        batch_size: int,
        workers: int = 0,
    ) -> None:
        with_boxes = {a.category_id for rows in dataset.annotations.values() for a in rows}
        self.dataset_ids = match_classes(card.classes, dataset.classes, with_boxes)
        self.ground_truth = dataset.coco_json()
        self.dataset, self.card = dataset, card
        self.masks = card.has_masks and has_any_mask(self.ground_truth["annotations"])
        if card.has_masks and not self.masks:
            log.warning(
                "%s has no masks: of this model's predictions only the boxes are evaluated", dataset.name
            )
        self.batch_size, self.workers = batch_size, workers

    def __call__(self, predict: Predict) -> ModelEvaluation:
        """Evaluate a model; under torch.distributed must be called by every process; all get the same result."""
        recorder = None
        if self.masks and is_panoptic(self.dataset):
            recorder = SegmentRecorder(self.card.classes, self.dataset_ids, self.dataset)
        results = predict_dataset(
            predict,
            self.card,
            self.dataset,
            batch_size=self.batch_size,
            workers=self.workers,
            watch=recorder,
        )
        evaluated = self._evaluation(results)
        if recorder is None:
            return evaluated
        quality = panoptic_quality(self.ground_truth, recorder.of_all_processes())
        return evaluated._replace(evaluation=replace(evaluated.evaluation, panoptic=quality))

    def on_images(self, predict: PredictImage) -> ModelEvaluation:
        """Evaluate a function that takes whole images, one by one; otherwise as calling the evaluator."""
        return self._evaluation(predict_images(predict, self.card, self.dataset, workers=self.workers))

    def _evaluation(self, predictions: list[Result]) -> ModelEvaluation:
        counts: dict[int, int] = {}
        results = []
        for prediction in predictions:
            counts[prediction["image_id"]] = counts.get(prediction["image_id"], 0) + 1
            if prediction["category_id"] in self.dataset_ids:
                results.append({**prediction, "category_id": self.dataset_ids[prediction["category_id"]]})
        evaluation = average_precision(self.ground_truth, results)
        if self.masks and has_any_mask(results):
            evaluation = replace(evaluation, masks=mask_average_precision(self.ground_truth, results))
        most = max(counts.values(), default=0)
        return ModelEvaluation(evaluation, results, most, self._threshold_table(evaluation))

    def _threshold_table(self, evaluation: Evaluation) -> ThresholdTable:
        """Return the threshold curves of an evaluation with the category ids of the model."""
        model_ids = {dataset_id: model_id for model_id, dataset_id in self.dataset_ids.items()}
        curves = zip(evaluation.per_class, evaluation.thresholds.per_class, strict=True)
        return threshold_table(
            evaluation.thresholds.all_classes,
            {model_ids[row.id]: curve for row, curve in curves if row.id in model_ids},
            source=self.dataset.name,
            images=evaluation.images,
        )
