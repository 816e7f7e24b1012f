"""Cut a smaller dataset by category: a number of images with it and a number without."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.data.write_coco import Files, write_coco


@dataclass(frozen=True)
class Counts:
    """Number of images of a split, with and without the categories."""

    with_category: int | None  # None: all of them
    without: int = 0

    def __post_init__(self) -> None:
        if min(self.with_category or 0, self.without) < 0:
            raise UserError(f"images with and without: expected 0 or more, found {self}")


def cut_subset(
    source: str | Path,
    categories: Sequence[str],
    out: str | Path,
    train: Counts,
    val: Counts | None = None,
    *,
    split: str = "train",
    val_split: str | None = None,
    seed: int = 0,
    all_categories: bool = False,
    files: Files = "copy",
) -> dict[str, DetectionDataset]:
    """Draw images by category and write them in COCO's layout, as `train` and `val`.

    An image is *with* the categories if at least one object of them is annotated in it (a crowd alone does
    not count), and *without* if none is, not even a crowd. The draw depends on the seed and the image
    ids only; `train` is independent of `val`.

    Args:
        source: Dataset, as in `open_dataset`.
        categories: One or more category names.
        out: Folder to make.
        train: Number of images for training.
        val: Number of images for validation, none of them in `train`; None for no such split.
        split: Split of the source to draw from.
        val_split: Other split of the source to draw `val` from.
        seed: Random seed of the draw.
        all_categories: Whether to keep the annotations of the other categories too.
        files: Whether to copy the images or link to them.

    Returns:
        The datasets that were written, by split.

    Raises:
        UserError: a category is not in the source, there are too few images, or `out` is in use.
    """
    dataset = open_dataset(source, split, details=True)
    with_them, without = _shuffled(dataset, categories, seed)
    parts = {"train": _take(dataset, with_them, without, train, categories)}
    if val is not None and val_split is not None:
        other = open_dataset(source, val_split, details=True)
        parts["val"] = _take(other, *_shuffled(other, categories, seed), val, categories)
    elif val is not None:
        taken = {image.id for image in parts["train"].images}
        with_them, without = ([i for i in ids if i not in taken] for ids in (with_them, without))
        parts["val"] = _take(dataset, with_them, without, val, categories, " besides those for training")
    if not all_categories:
        parts = {name: _only_categories(part, categories) for name, part in parts.items()}
    write_coco(parts, Path(out), files)
    return parts


def _shuffled(dataset: DetectionDataset, categories: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """Return the ids of the images with and without the categories, each in the order of the draw."""
    wanted = {dataset.classes.ids[dataset.classes.index_of_name(name)] for name in categories}
    with_them, without = [], []
    for image_id in sorted(dataset.annotations):
        rows = [a for a in dataset.annotations[image_id] if a.category_id in wanted]
        if any(not a.iscrowd for a in rows):
            with_them.append(image_id)
        elif not rows:
            without.append(image_id)
    generator = random.Random(seed)
    generator.shuffle(with_them)
    generator.shuffle(without)
    return with_them, without


def _take(
    dataset: DetectionDataset,
    with_them: Sequence[int],
    without: Sequence[int],
    counts: Counts,
    categories: Sequence[str],
    besides: str = "",
) -> DetectionDataset:
    wanted = len(with_them) if counts.with_category is None else counts.with_category
    for count, available, word in (
        (wanted, len(with_them), "with"),
        (counts.without, len(without), "without"),
    ):
        if count > available:
            images = f"{count} images {word} {' or '.join(categories)}"
            raise UserError(f"{dataset.name}: {images} requested, but only {available} available{besides}")
    drawn = {*with_them[:wanted], *without[: counts.without]}
    return dataset.subset(image.id for image in dataset.images if image.id in drawn)


def _only_categories(dataset: DetectionDataset, categories: Sequence[str]) -> DetectionDataset:
    """Return the dataset with the annotations of these categories only."""
    rows = [
        (i, n) for i, n in zip(dataset.classes.ids, dataset.classes.names, strict=True) if n in categories
    ]
    classes = ClassTable(tuple(i for i, _ in rows), tuple(n for _, n in rows))
    annotations, unusable = (
        {image_id: tuple(a for a in part if a.category_id in classes.ids) for image_id, part in table.items()}
        for table in (dataset.annotations, dataset.unusable)
    )
    return replace(dataset, classes=classes, annotations=annotations, unusable=unusable)
