"""Subsets cut by category."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrscope.core.errors import UserError
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.data.subset import Counts, cut_subset
from tests.support.datasets import MakeCoco, box


def names(dataset: DetectionDataset) -> set[str]:
    return {i.path.name for i in dataset.images}


def test_counts_with_and_without(farm: Path, tmp_path: Path) -> None:
    cut_subset(farm, ["dog"], tmp_path / "out", Counts(6, 5), Counts(4, 3), seed=1)
    train, val = (open_dataset(tmp_path / "out", split) for split in ("train", "val"))
    for part, with_dog, without in ((train, 6, 5), (val, 4, 3)):
        found = [len(part.annotations[i.id]) for i in part.images]
        assert sorted(found) == [0] * without + [1] * with_dog
        assert part.classes.ids == (7,) and part.classes.names == ("dog",)
        assert not {i.id for i in part.images} & {13, 14, 15}
    assert not names(train) & names(val)
    source = open_dataset(farm, "train")
    for image in train.images:
        assert image.path.read_bytes() == source.image(image.id).path.read_bytes()


def test_draw_depends_on_seed_not_on_validation(farm: Path, tmp_path: Path) -> None:
    def cut(name: str, seed: int, val: Counts | None = None) -> set[str]:
        return names(cut_subset(farm, ["dog"], tmp_path / name, Counts(6, 5), val, seed=seed)["train"])

    first = cut("a", 1)
    assert cut("b", 1) == first == cut("c", 1, Counts(4, 3))
    assert cut("d", 2) != first


def test_several_categories_and_all_categories(farm: Path, tmp_path: Path) -> None:
    every = cut_subset(farm, ["dog", "cat"], tmp_path / "a", Counts(None, 5))["train"]
    assert len(every) == 22 + 5 and every.classes.names == ("cat", "dog")
    neighbours = cut_subset(farm, ["dog"], tmp_path / "b", Counts(None), all_categories=True)["train"]
    assert len(neighbours.annotations[1]) == 2 and len(neighbours.classes) == 3


def test_validation_from_another_split(farm: Path, make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco([box(i, 7, [1, 1, 9, 9]) for i in range(1, 4)], images=5, folder=farm, split="val")
    parts = cut_subset(farm, ["dog"], tmp_path / "o", Counts(12, 0), Counts(3, 2), val_split="val")
    assert len(parts["val"]) == 5 and all(i.path.parent.name == "val" for i in parts["val"].images)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (Counts(13), None, "13 images with dog requested, but only 12 available"),
        (Counts(1, 16), None, "16 images without dog requested, but only 15 available"),
        (
            Counts(10),
            Counts(3),
            "3 images with dog requested, but only 2 available besides those for training",
        ),
    ],
)
def test_too_few_images_are_refused(
    farm: Path, tmp_path: Path, train: Counts, val: Counts | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        cut_subset(farm, ["dog"], tmp_path / "out", train, val)
    assert not (tmp_path / "out").exists()


def test_an_unknown_category_names_the_nearest(farm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class 'dgo' is not known; did you mean 'dog'"):
        cut_subset(farm, ["dgo"], tmp_path / "out", Counts(1))


def test_real_coco_keeps_licences_and_masks(shared_data: Path, tmp_path: Path) -> None:
    cut_subset(shared_data / "coco-tiny", ["person"], tmp_path / "out", Counts(5, 5))
    tree = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert tree["categories"] == [{"id": 1, "name": "person", "supercategory": "person"}]
    assert len(tree["images"]) == 10 and all("license" in i and "flickr_url" in i for i in tree["images"])
    assert tree["licenses"] and all(a["segmentation"] for a in tree["annotations"])
