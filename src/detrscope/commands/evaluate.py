"""Evaluate a model, or a file of results, on a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detrscope.checkpoints.load import find_native_checkpoint
from detrscope.checkpoints.native import replace_checkpoint_card
from detrscope.console import log
from detrscope.core.distributed import rank_and_world
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_file
from detrscope.core.tiling import Tiling
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.coco_ap import Evaluation, average_precision
from detrscope.evaluation.evaluator import Evaluator
from detrscope.evaluation.mask_ap import has_any_mask, mask_average_precision
from detrscope.evaluation.report import (
    goal_text,
    write_class_csv,
    write_evaluation_json,
    write_precision_recall_csv,
    write_thresholds_csv,
)
from detrscope.evaluation.results_file import read_results, write_results
from detrscope.evaluation.threshold_curves import operating_points
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.tiled import predict_tiles
from detrscope.views.precision_recall import ThresholdMarks, draw_precision_recall


def evaluate(
    model: str | Path | Detector,
    data: str | Path | DetectionDataset,
    *,
    split: str = "val",
    batch_size: int = 1,
    workers: int = 0,
    json_file: str | Path | None = None,
    results_file: str | Path | None = None,
    out: str | Path | None = None,
    store_thresholds: bool = False,
    tiling: Tiling | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Evaluation:
    """Return the COCO AP of a model on a dataset.

    Classes are matched by name; where ids differ they are translated. Under torch.distributed the images are divided
    among the processes; all of them return the same evaluation and the first one writes.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`.
        data: a dataset, or a source that `open_dataset` understands.
        split: split of `data`.
        batch_size: images per batch; with `tiling`, 1: each image is taken by itself.
        workers: processes that read images; 0 reads them in this one.
        json_file: file for the metrics.
        results_file: file for the results in COCO's format, with the ids of the dataset.
        out: folder for all of these and for tables and curves; see `write_evaluation`.
        store_thresholds: write the operating points into the card of the model's checkpoint, whose weights stay as
            they are, so that `detect` can be asked for a precision or a recall.
        tiling: divide each image into overlapping tiles; None runs the model on images as a whole.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a wrong argument, a model that lacks classes of the dataset, or one whose card cannot be written.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected 1 or more")
    if tiling is not None and batch_size > 1:
        raise UserError(
            f"batch size {batch_size}: tiled images are taken one by one; set the batch of the tiling"
        )
    checkpoint = _checkpoint_to_write(model, load_options) if store_thresholds else None
    dataset = data if isinstance(data, DetectionDataset) else None
    # The data first, which is read sooner, unless the model decides whether masks are read.
    detector = open_detector(model, load_options)
    if dataset is None:
        dataset = open_dataset(str(data), split, details=detector.card.has_masks)
    if store_thresholds and detector.edits:
        raise UserError(
            "store thresholds: those of an edited model do not belong in its checkpoint; leave edits out"
        )
    evaluator = Evaluator(dataset, detector.card, batch_size=batch_size, workers=workers)
    if tiling is None:
        evaluated = evaluator(lambda batch: detector.predict(batch.images, batch.padding))
    else:
        evaluated = evaluator.on_images(
            lambda image: predict_tiles(detector.predict, detector.card, image, tiling)
        )
    evaluation, results, most, table = evaluated
    if rank_and_world()[0] == 0:
        _warn_of_crowded_images(dataset, most)
        _write(evaluation, results, json_file, results_file, out)
        if checkpoint is not None:
            replace_checkpoint_card(checkpoint, replace(detector.card, thresholds=table))
            log.info("%s: thresholds on %s stored in its card", checkpoint, table.source)
    return evaluation


def _checkpoint_to_write(model: str | Path | Detector, options: LoadOptions) -> Path:
    """Return the checkpoint file whose card can be written, before any work is done for it.

    Raises:
        UserError: the model is no file of ours, or the file cannot be written.
    """
    name = options.weights or model
    file = find_native_checkpoint(name) if isinstance(name, str | Path) else None
    if file is None:
        given = f"'{name}'" if isinstance(name, str | Path) else "a detector in memory"
        raise UserError(
            f"store_thresholds: expected a checkpoint of detrscope (.safetensors with a model card) or a run folder as"
            f" model, found {given}; leave it out (an exported model takes them along from its checkpoint)"
        )
    check_writable_file(file)
    return file


def evaluate_results(
    results: str | Path | Sequence[Mapping[str, Any]],
    data: str | Path | DetectionDataset,
    *,
    split: str = "val",
    json_file: str | Path | None = None,
    out: str | Path | None = None,
) -> Evaluation:
    """Return the COCO AP of existing results in COCO's format, of any model.

    Args:
        results: a file, or the results.
        data: a dataset, or a source that `open_dataset` understands.
        split: split of `data`.
        json_file: file for the metrics.
        out: folder for the metrics, tables and curves; see `write_evaluation`.

    Raises:
        UserError: a file that does not hold results, or results of images that the dataset does not have.
    """
    rows = read_results(results) if isinstance(results, str | Path) else results
    masks = has_any_mask(rows)
    dataset = data if isinstance(data, DetectionDataset) else open_dataset(str(data), split, details=masks)
    ground_truth = dataset.coco_json()
    evaluation = average_precision(ground_truth, rows)
    if masks and has_any_mask(ground_truth["annotations"]):
        evaluation = replace(evaluation, masks=mask_average_precision(ground_truth, rows))
    _write(evaluation, None, json_file, None, out)
    return evaluation


def write_evaluation(evaluation: Evaluation, out: str | Path) -> None:
    """Write `evaluation.json`, `per_class.csv`, `precision_recall.csv`, `precision_recall.png`, `thresholds.csv`."""
    out = Path(out)
    write_evaluation_json(out / "evaluation.json", evaluation)
    write_class_csv(out / "per_class.csv", evaluation)
    write_precision_recall_csv(out / "precision_recall.csv", evaluation)
    curves = {curve.name: (curve.precision_50, curve.precision_75) for curve in evaluation.curves}
    draw_precision_recall(curves, out / "precision_recall.png", marks=_marks(evaluation))
    write_thresholds_csv(out / "thresholds.csv", evaluation)


def _marks(evaluation: Evaluation) -> ThresholdMarks:
    """Return the operating points to mark in the precision-recall figure."""
    curve = evaluation.thresholds.all_classes
    points = curve.points()
    reached = [(goal, point) for goal, point in operating_points(curve) if point is not None]
    return ThresholdMarks(
        [point.recall for point in points],
        [point.precision for point in points],
        [
            (point.recall, point.precision, f"{goal_text(goal)}: score {point.threshold:.3g}")
            for goal, point in reached
        ],
    )


def _write(
    evaluation: Evaluation,
    results: list[dict[str, Any]] | None,
    json_file: str | Path | None,
    results_file: str | Path | None,
    out: str | Path | None,
) -> None:
    if json_file is not None:
        write_evaluation_json(json_file, evaluation)
    if results is not None and results_file is not None:
        write_results(results_file, results)
    if out is not None:
        write_evaluation(evaluation, out)
        if results is not None:
            write_results(Path(out) / "results.json", results)


def _warn_of_crowded_images(dataset: DetectionDataset, most: int) -> None:
    """Warn of images with more objects than the model predicts in any image."""
    objects = {i: sum(not a.iscrowd for a in rows) for i, rows in dataset.annotations.items()}
    crowded = {i: count for i, count in objects.items() if count > most}
    if most and crowded:
        worst = max(crowded, key=crowded.__getitem__)
        log.warning(
            f"{len(crowded)} images have more objects than the {most} that the model predicts at most, such as "
            f"image {worst} with {crowded[worst]}: AP cannot reach 100"
        )
