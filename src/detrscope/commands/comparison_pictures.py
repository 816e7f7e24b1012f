"""The pictures of a comparison: one file per image, ground truth first, then a column for each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from detrscope.commands.comparison_images import ComparedImage
from detrscope.core.types import Detections
from detrscope.views.canvas import drawable_class_label
from detrscope.views.side_by_side import Column, draw_side_by_side


def write_pictures(
    folder: Path,
    images: Sequence[ComparedImage],
    models: Sequence[str],
    detections: Sequence[Sequence[Detections]],
    found: Sequence[Sequence[Tensor]],
) -> tuple[str, ...]:
    """Draw each image once for its ground truth, where it is known, and once for each model.

    Args:
        folder: output folder.
        images: images to draw.
        models: names of the models.
        detections: of each image, those of every model.
        found: of each image, the objects that every model finds: bool [objects].

    Returns:
        Names of the files.
    """
    names = dict.fromkeys(n for of_models in detections for d in of_models for n in d.names)
    classes = [*dict.fromkeys(n for image in images for n in image.object_names), *names]
    files = []
    for image, of_models, masks in zip(images, detections, found, strict=True):
        columns = [_truth(image, masks)] if image.has_objects else []
        rows = zip(models, of_models, masks, strict=True)
        columns += [
            _column(image, f"{i}. {name}", d, mask) for i, (name, d, mask) in enumerate(rows, start=1)
        ]
        path = folder / f"compare-{image.stem}.png"
        draw_side_by_side(image.read(), columns, path, classes=classes)
        files.append(path.name)
    return tuple(files)


def _truth(image: ComparedImage, masks: Sequence[Tensor]) -> Column:
    """Return the objects; those that some model misses come first, with the numbers of these models in the label."""
    by_model = torch.stack([*masks])  # [models, objects]
    order = by_model.sum(dim=0).argsort(stable=True).tolist()
    names = tuple(image.object_names[i] for i in order)
    texts = []
    for i, name in zip(order, names, strict=True):
        missing = [str(model) for model, mask in enumerate(masks, start=1) if not mask[i]]
        texts.append(f"{name}, missed by {', '.join(missing)}" if missing else name)
    title = f"ground truth: {len(order)} objects"
    return Column(title, image.objects.boxes_xyxy[order], names, tuple(texts))


def _column(image: ComparedImage, name: str, detections: Detections, found: Tensor) -> Column:
    count = f"{len(detections)} boxes"
    title = f"{name}: {count}, {int(found.sum())} objects found" if image.has_objects else f"{name}: {count}"
    rows = zip(detections.names, detections.labels.tolist(), detections.scores.tolist(), strict=True)
    texts = tuple(f"{drawable_class_label(label, i)} {score:.2f}" for label, i, score in rows)
    return Column(title, detections.boxes_xyxy, detections.names, texts)
