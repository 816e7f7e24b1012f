"""A smaller dataset cut by category: so many images with it, so many without."""

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
    """How many images of a split."""

    with_category: int | None  # None: all there are
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
    """Draws images by category and writes them in COCO's layout, as `train` and `val`.

    An image is *with* the categories if at least one object of them is annotated in it (a crowd alone does
    not count), and *without* if none is, not even a crowd. What is drawn depends on the seed and the image
    ids only; `train` stays the same whatever `val` asks for.

    Args:
        source: as in `open_dataset`.
        categories: names; one or more.
        out: the folder to make.
        train: how many images for training.
        val: how many for validation, none of them in `train`; None for no such split.
        split: the split of the source to draw from.
        val_split: another split of the source to draw `val` from.
        seed: of the draw.
        all_categories: keep the annotations of the other categories too.
        files: copy the images, or link to them.

    Returns:
        What was written, by split.

    Raises:
        UserError: a category is not in the source, there are fewer images than asked for, or `out` is in use.
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
        parts = {name: _only(part, categories) for name, part in parts.items()}
    write_coco(parts, Path(out), files)
    return parts


def _shuffled(dataset: DetectionDataset, categories: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """Ids of the images with and without, each in the order in which they are drawn."""
    wanted = {dataset.classes.ids[dataset.classes.index_of_name(name)] for name in categories}
    with_them, without = [], []
    for image_id in sorted(dataset.annotations):
        found = [a for a in dataset.annotations[image_id] if a.category_id in wanted]
        if any(not a.iscrowd for a in found):
            with_them.append(image_id)
        elif not found:
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
    for asked, there, word in (
        (wanted, len(with_them), "with"),
        (counts.without, len(without), "without"),
    ):
        if asked > there:
            what = f"{word} {' or '.join(categories)}"
            raise UserError(
                f"{dataset.name}: {asked} images {what} are asked for, there are {there}{besides}"
            )
    drawn = {*with_them[:wanted], *without[: counts.without]}
    return dataset.subset(image.id for image in dataset.images if image.id in drawn)


def _only(dataset: DetectionDataset, categories: Sequence[str]) -> DetectionDataset:
    """The dataset as if the other categories had never been annotated."""
    wanted = set(categories)
    rows = [(i, n) for i, n in zip(dataset.classes.ids, dataset.classes.names, strict=True) if n in wanted]
    classes = ClassTable(tuple(i for i, _ in rows), tuple(n for _, n in rows))
    ids = set(classes.ids)
    annotations = {
        image_id: tuple(a for a in found if a.category_id in ids)
        for image_id, found in dataset.annotations.items()
    }
    unusable = {
        image_id: tuple(a for a in found if a.category_id in ids)
        for image_id, found in dataset.unusable.items()
    }
    return replace(dataset, classes=classes, annotations=annotations, unusable=unusable)
