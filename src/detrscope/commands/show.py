"""Contact sheet of dataset images after preprocessing and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.dataset import TransformedDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import AugmentConfig, EvalTransform, TrainTransform
from detrscope.views.canvas import drawable_class_label
from detrscope.views.contact_sheet import Tile, contact_sheet


def show(
    source: str | Path,
    out: str | Path,
    *,
    split: str = "train",
    count: int = 12,
    augment: AugmentConfig | None = None,
    preprocessing: Preprocessing | None = None,
    annotations: str | Path | None = None,
    image_ids: Sequence[int] = (),
    seed: int = 0,
    columns: int = 4,
) -> list[Tile]:
    """Write a contact sheet of images after their transforms, with boxes and class names.

    Args:
        source: Dataset, as in `open_dataset`.
        out: Image file to write, the suffix selects the format.
        split: Split of the dataset.
        count: Number of images, drawn by `seed`; all of them where there are fewer.
        augment: Augmentation of training; None shows images as in evaluation.
        preprocessing: Input size and normalisation; the default is DETR's.
        annotations: COCO JSON, as in `open_dataset`.
        image_ids: Ids of the images to show, in place of `count` drawn ones.
        seed: Random seed of the choice of images and of the augmentation.
        columns: Images in a row.

    Returns:
        The tiles of the sheet.

    Raises:
        UserError: the source or an image of it cannot be read.
    """
    preprocessing = preprocessing or Preprocessing()
    dataset = open_dataset(source, split, annotations=annotations)
    if not image_ids:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        image_ids = [dataset.images[i].id for i in order[:count].tolist()]
    dataset = dataset.subset(image_ids)
    transform = TrainTransform(augment, preprocessing) if augment else EvalTransform(preprocessing)
    samples = TransformedDataset(dataset, transform, mixing=augment.mixing if augment else None)
    classes = dataset.classes
    labels = [drawable_class_label(name, id_) for name, id_ in zip(classes.names, classes.ids, strict=True)]
    tiles = []
    for index, info in enumerate(dataset.images):
        sample = samples[seed, index]
        height, width = sample.image.shape[1:]
        boxes = scale_boxes(cxcywh_to_xyxy(sample.target.boxes_cxcywh), width, height)
        names = tuple(labels[i] for i in sample.target.labels.tolist())
        title = f"{info.path.name} {width}x{height}"
        tiles.append(Tile(preprocessing.denormalise(sample.image), boxes, names, title))
    contact_sheet(tiles, out, columns=columns)
    return tiles
