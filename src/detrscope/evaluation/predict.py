"""Run a model over a dataset, on one process or several, and return COCO results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detrscope.console import progress as progress_bar
from detrscope.core.classes import ClassTable
from detrscope.core.distributed import gather_objects, rank_and_world
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import Scored, postprocess
from detrscope.core.types import Batch, Outputs, Target
from detrscope.data.dataset import DetectionDataset, SampleInfo, TransformedDataset
from detrscope.data.loader import Collated, DetectionLoader, Key
from detrscope.data.transforms import EvalTransform
from detrscope.evaluation.mask_results import encode_masks

Result = dict[
    str, Any
]  # image_id, category_id, bbox (x, y, width, height in pixels), score; segmentation of masks
Predict = Callable[[Batch], Outputs]  # a batch of the loader, on the CPU in float32 -> predictions
Watch = Callable[[Scored, SampleInfo], None]  # called with the predictions of each image
PredictImage = Callable[[Tensor], Scored]  # an image of the dataset, uint8 [3, H, W] -> all predictions in it


class ModulePredictor:
    """Predictions of a module, in evaluation mode and without gradients; its own mode is restored.

    Args:
        model: maps a Batch to Outputs.
        device: device of the model.
        autocast: precision to compute in where the weights are float32; None for that of the weights.
    """

    def __init__(
        self, model: nn.Module, device: torch.device | str = "cpu", autocast: torch.dtype | None = None
    ) -> None:
        self.model, self.device, self.autocast = model, torch.device(device), autocast
        self.dtype = next(model.parameters()).dtype  # of the backbone: a model may have been cast to bf16

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        """Return the predictions of a batch."""
        batch = batch.to(self.device)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                outputs: Outputs = self.model(Batch(batch.images.to(self.dtype), batch.padding))
                return outputs
        finally:
            self.model.train(was_training)


def predict_dataset(
    predict: Predict,
    card: ModelCard,
    dataset: DetectionDataset,
    *,
    batch_size: int = 1,
    progress: bool = True,
    workers: int = 0,
    watch: Watch | None = None,
) -> list[Result]:
    """Return every prediction of every image, without a threshold, in the order of the images.

    Images of similar size share a batch, so that little is padded. Where torch.distributed is initialised each
    process takes every n-th batch and all of them get all results: the batches, and so the numbers, are those
    of one process.

    Args:
        predict: Model as a function of batches: `ModulePredictor(module)`, or an engine's.
        card: Classes, preprocessing and scoring of the model.
        dataset: Images to predict.
        batch_size: Images in a batch.
        progress: Whether to show a progress bar.
        workers: Number of processes that read images; 0 reads them in this one.
        watch: Called with the predictions of each image of this process.

    Returns:
        COCO results: original category ids of `card`, boxes in pixels of the original upright images; masks as run
        lengths where the model predicts them.

    Raises:
        UserError: an image cannot be read.
    """
    samples = TransformedDataset(dataset, EvalTransform(card.preprocessing), cache=False)

    def predict_batch(collated: Collated) -> list[Scored]:
        batch, _, infos = collated
        found = postprocess(predict(batch), card, [info.size for info in infos])
        if watch is not None:
            for scored, info in zip(found, infos, strict=True):
                watch(scored, info)
        return found

    batches = _batches_by_size(dataset, card, batch_size)
    return _predict(predict_batch, card, dataset, samples, batches, progress=progress, workers=workers)


def predict_images(
    predict: PredictImage,
    card: ModelCard,
    dataset: DetectionDataset,
    *,
    progress: bool = True,
    workers: int = 0,
) -> list[Result]:
    """Return every prediction of every image, of a function that takes whole images, such as one that tiles them.

    Otherwise as `predict_dataset`.

    Args:
        predict: Function of one image as it is in its file, upright.
        card: Classes of the model.
        dataset: Images to predict.
        progress: Whether to show a progress bar.
        workers: Number of processes that read images; 0 reads them in this one.
    """
    samples = TransformedDataset(dataset, _untransformed, cache=False)
    batches = _batches_by_size(dataset, card, 1)
    return _predict(
        lambda collated: [predict(collated[0].images[0])],
        card,
        dataset,
        samples,
        batches,
        progress=progress,
        workers=workers,
    )


def _untransformed(image: Tensor, boxes_xyxy: Tensor, labels: Tensor) -> tuple[Tensor, Target]:
    """Return an image as it is; evaluation has no use for the target."""
    return image, Target(labels, boxes_xyxy)


def _predict(
    predict: Callable[[Collated], list[Scored]],
    card: ModelCard,
    dataset: DetectionDataset,
    samples: TransformedDataset,
    batches: list[list[Key]],
    *,
    progress: bool,
    workers: int,
) -> list[Result]:
    """Return the predictions of all processes, each of which takes every n-th batch, in the order of the images."""
    rank, world = rank_and_world()
    mine = batches[rank::world]
    loader = DetectionLoader(samples, mine, workers)
    predicted: dict[Any, list[Result]] = {}
    shown = _with_progress(loader, sum(map(len, mine))) if progress and rank == 0 else loader
    for collated in shown:
        infos = collated[2]
        for info, image in zip(infos, predict(collated), strict=True):
            predicted[info.image_id] = coco_results(image, info.image_id, card.classes, info.size)
    for part in gather_objects(predicted):
        predicted.update(part)
    return [result for image in dataset.images for result in predicted.get(image.id, ())]


def _with_progress(loader: Iterable[Collated], images: int) -> Iterator[Collated]:
    """Yield the batches with a progress bar that counts their images."""
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=images)
        for collated in loader:
            yield collated
            bar.advance(task, len(collated[2]))


def _batches_by_size(dataset: DetectionDataset, card: ModelCard, batch_size: int) -> list[list[Key]]:
    """Return indices of images by input size, largest first: what does not fit into memory fails at once."""

    def size(index: int) -> tuple[int, int]:
        image = dataset.images[index]
        if not (image.width and image.height):  # cannot be read: comes first, to fail at once too
            return 2**31, 2**31
        return card.preprocessing.size_for(image.height, image.width)

    order: list[Key] = [*sorted(range(len(dataset)), key=size, reverse=True)]
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def coco_results(
    scored: Scored, image_id: Any, classes: ClassTable, size: tuple[int, int] | None = None
) -> list[Result]:
    """Return the predictions of one image as COCO results, with the original category ids of `classes`.

    Masks, where there are any, are those of an image of this height and width; None leaves them out.
    """
    boxes = scored.boxes_xyxy.clone()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), scored.scores.tolist(), scored.class_indices.tolist(), strict=True)
    results: list[Result] = [
        {"image_id": image_id, "category_id": classes.ids[index], "bbox": box, "score": score}
        for box, score, index in rows
    ]
    if scored.masks is not None and size is not None:
        for result, mask in zip(results, encode_masks(scored, *size), strict=True):
            result["segmentation"] = mask
    return results
