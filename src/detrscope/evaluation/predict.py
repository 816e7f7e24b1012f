"""A model's results over a dataset, in COCO's result format, on one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from detrscope.console import progress as progress_bar
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import Scored, postprocess
from detrscope.core.types import Batch
from detrscope.data.dataset import DetectionDataset, TransformedDataset
from detrscope.data.loader import Collated, DetectionLoader, Key
from detrscope.data.transforms import EvalTransform

Result = dict[str, Any]  # image_id, category_id, bbox (x, y, width, height in pixels), score


@torch.no_grad()
def predict_dataset(
    model: nn.Module,
    card: ModelCard,
    dataset: DetectionDataset,
    *,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    progress: bool = True,
    workers: int = 0,
) -> list[Result]:
    """Every prediction of every image, without a threshold, in the order of the dataset's images.

    Images of alike size share a batch, so that little is padded. Where torch.distributed is initialised each
    process takes every n-th batch and all of them get all results: the batches, and so the numbers, are those
    of one process.

    Args:
        model: maps a Batch to Outputs; left in the mode (train or eval) that it came in.
        card: the model's classes, preprocessing and scoring.
        dataset: what to look at.
        batch_size: images in a batch.
        device: where the model is.
        autocast: what to compute in where the weights are float32; None for that of the weights.
        progress: show a bar.
        workers: processes that read images; 0 reads them in this one.

    Returns:
        COCO results: original category ids of `card`, boxes in pixels of the original upright images.

    Raises:
        UserError: an image cannot be read.
    """
    device = torch.device(device)
    rank, world = rank_and_world()
    mine = _batches_of_alike_size(dataset, card, batch_size)[rank::world]
    samples = TransformedDataset(dataset, EvalTransform(card.preprocessing), cache=False)
    loader = DetectionLoader(samples, mine, workers)
    dtype = next(model.parameters()).dtype  # of the backbone: a model may have been cast to bf16

    found: dict[Any, list[Result]] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            for batch, _, infos in _shown(loader, sum(map(len, mine))) if progress and rank == 0 else loader:
                batch = batch.to(device)
                outputs = model(Batch(batch.images.to(dtype), batch.padding))
                scored = postprocess(outputs, card.scoring, [info.size for info in infos])
                for info, one in zip(infos, scored, strict=True):
                    found[info.image_id] = _as_coco(one, info.image_id, card)
    finally:
        model.train(was_training)
    for part in _gathered(found, world):
        found.update(part)
    return [result for image in dataset.images for result in found.get(image.id, ())]


def _shown(loader: Iterable[Collated], images: int) -> Iterator[Collated]:
    """The batches, with a bar that counts their images."""
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=images)
        for collated in loader:
            yield collated
            bar.advance(task, len(collated[2]))


def _batches_of_alike_size(dataset: DetectionDataset, card: ModelCard, batch_size: int) -> list[list[Key]]:
    """Indices of images by the size the model sees, the largest first: what does not fit fails at once."""
    # An image of no known size cannot be read: it comes first, as if it was as large as can be.
    sizes = [
        card.preprocessing.size_for(image.height, image.width)
        if image.width and image.height
        else (2**31, 2**31)
        for image in dataset.images
    ]
    order: list[Key] = [*sorted(range(len(sizes)), key=lambda i: sizes[i], reverse=True)]
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _as_coco(scored: Scored, image_id: Any, card: ModelCard) -> list[Result]:
    boxes = scored.boxes_xyxy.clone()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), scored.scores.tolist(), scored.class_indices.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": card.classes.ids[index], "bbox": box, "score": score}
        for box, score, index in rows
    ]


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _gathered(found: dict[Any, list[Result]], world: int) -> list[dict[Any, list[Result]]]:
    """What each process found, on every process."""
    if world == 1:
        return [found]
    parts: list[dict[Any, list[Result]]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(parts, found)
    return parts
