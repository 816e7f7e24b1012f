"""COCO AP of a model on a dataset, as the command `evaluate` and the training loop compute it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from detrscope.core.model_card import ModelCard
from detrscope.data.dataset import DetectionDataset
from detrscope.evaluation.class_matching import match_classes
from detrscope.evaluation.coco_ap import Evaluation, average_precision
from detrscope.evaluation.predict import Result, predict_dataset


class ModelEvaluation(NamedTuple):
    """AP of a model, and the predictions it was computed from."""

    evaluation: Evaluation
    results: list[Result]  # with the category ids of the dataset, of the classes that it has
    most_predictions: int  # in one image, of all classes; 0 without predictions


class Evaluator:
    """Evaluates models of the same classes on a dataset.

    Args:
        dataset: Images and ground truth.
        card: Classes, preprocessing and scoring of the models.
        batch_size: Images in a batch.
        device: Device of the models.
        autocast: Precision to compute in where the weights are float32; None for that of the weights.
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
        device: torch.device | str,
        autocast: torch.dtype | None = None,
        workers: int = 0,
    ) -> None:
        with_boxes = {a.category_id for rows in dataset.annotations.values() for a in rows}
        self.dataset_ids = match_classes(card.classes, dataset.classes, with_boxes)
        self.ground_truth = dataset.coco_json()
        self.dataset, self.card = dataset, card
        self.batch_size, self.device, self.autocast, self.workers = batch_size, device, autocast, workers

    def __call__(self, model: nn.Module) -> ModelEvaluation:
        """Evaluate a model; under torch.distributed must be called by every process; all get the same result."""
        predictions = predict_dataset(
            model,
            self.card,
            self.dataset,
            batch_size=self.batch_size,
            device=self.device,
            autocast=self.autocast,
            workers=self.workers,
        )
        counts: dict[int, int] = {}
        results = []
        for prediction in predictions:
            counts[prediction["image_id"]] = counts.get(prediction["image_id"], 0) + 1
            if prediction["category_id"] in self.dataset_ids:
                results.append({**prediction, "category_id": self.dataset_ids[prediction["category_id"]]})
        evaluation = average_precision(self.ground_truth, results)
        return ModelEvaluation(evaluation, results, max(counts.values(), default=0))
