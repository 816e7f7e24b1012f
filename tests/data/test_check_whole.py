"""Problems of a dataset as a whole, its repair, and its page."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from detrscope.cli.app import app
from detrscope.commands.check_page import write_check_page
from detrscope.core.errors import UserError
from detrscope.data.check import check
from detrscope.data.open_dataset import open_dataset
from detrscope.data.repair import repair
from detrscope.data.similar_images import NEAR, fingerprint, similar_pairs
from tests.support.datasets import CATEGORIES, MakeCoco, box, noise_image


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A picture with large shapes, as photographs have."""
    return noise_image(12, 9, seed).resize((width, height), Image.Resampling.BICUBIC)


def found(folder: Path) -> dict[str, list[tuple[str, str]]]:
    kinds: dict[str, list[tuple[str, str]]] = {}
    for problem in check(folder).problems:
        kinds.setdefault(problem.kind, []).append((problem.split, Path(problem.file).name))
    return kinds


def test_pictures_that_were_changed_a_little_are_alike() -> None:
    for seed in range(30):
        picture = scene(seed)
        marks = [
            fingerprint(np.asarray(changed))
            for changed in (
                picture,
                picture.resize((97, 73)),
                picture.point(lambda value: min(255, value + 12)),
                picture.filter(ImageFilter.GaussianBlur(1)),
            )
        ]
        pairs = {(i, j) for i, j, bits in similar_pairs(marks) if bits <= NEAR}
        assert {(0, 1), (0, 2), (0, 3)} <= pairs, seed


def test_different_pictures_are_not_alike() -> None:
    marks = [fingerprint(np.asarray(scene(seed))) for seed in range(300)]
    assert list(similar_pairs(marks)) == []
    assert fingerprint(np.full((40, 40, 3), 128, np.uint8)) is None


def test_every_pair_that_differs_in_few_bits_is_found() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        value = int.from_bytes(random.bytes(32), "big")
        bits = int(random.integers(0, 40))
        other = value
        for place in random.choice(256, bits, replace=False):
            other ^= 1 << int(place)
        assert len(list(similar_pairs([value, None, other]))) == (bits <= NEAR)


def test_images_that_look_alike_are_reported_once(make_coco: MakeCoco) -> None:
    folder = make_coco([box(1, 1, [1, 1, 9, 9], area=81)], images=3)
    make_coco([box(1, 1, [1, 1, 9, 9], area=81)], images=1, split="val", folder=folder, first_seed=9)
    picture = scene(0, 40, 30)
    picture.save(folder / "train" / "1.png")
    picture.point(lambda value: max(0, value - 6)).save(folder / "train" / "2.png")
    picture.filter(ImageFilter.GaussianBlur(0.6)).save(folder / "val" / "1.png")
    kinds = found(folder)
    reported = kinds.get("similar-image", []) + kinds["similar-image-in-two-splits"]
    assert sorted(reported) == [("train", "1.png"), ("train", "2.png")]  # not the one that is evaluated on
    assert "image-in-two-splits" not in kinds


def test_sizes_that_are_rare_and_areas_that_are_wrong(make_coco: MakeCoco) -> None:
    rows = [box(1, 1, [1, 1, 5 + i, 9], area=1) for i in range(10)]
    rows += [box(2, 1, [3, 3, 3, 3], area=1), box(2, 7, [0, 0, 40, 30], area=1)]
    kinds = found(make_coco(rows))
    assert kinds["tiny-box"] == [("train", "2.png")] and kinds["giant-box"] == [("train", "2.png")]
    assert kinds["constant-area"] == [("train", "set train")]


def test_splits_with_other_names_for_the_same_ids(make_coco: MakeCoco) -> None:
    folder = make_coco([box(1, 1, [1, 1, 9, 9], area=81)])
    swapped = [{"id": 1, "name": "dog"}, {"id": 7, "name": "cat"}, CATEGORIES[2]]
    rows = [box(1, 1, [1, 1, 9, 9], area=81)]
    make_coco(rows, split="val", folder=folder, categories=swapped, first_seed=5)
    other = [{"id": 1, "name": "horse"}, *CATEGORIES[1:]]
    make_coco(rows, split="test", folder=folder, categories=other, first_seed=9)
    problems = {p.kind: p for p in check(folder).problems}
    assert problems["classes-permuted"].split == "val"
    assert "1: dog, not cat" in problems["classes-permuted"].reason
    assert problems["classes-differ"].split == "test"


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_repaired_copy_has_no_errors(make_coco: MakeCoco, tmp_path: Path) -> None:
    rows = [
        box(1, 1, [1, 1, 9, 9], area=81),
        box(1, 1, [1, 1, 9, 9], area=81),  # again
        box(1, 7, [1, 1, 0, 9], area=1),
        box(1, 7, [35, 20, 20, 9], area=180),
        box(2, 7, [50, 1, 5, 9], area=45),
        box(2, 900, [2, 2, 8, 8], area=64),
        box(3, 1, [5, 5, 9, 9], area=81),
        box(4, 1, [5, 5, 9, 9], area=81),
    ]
    folder = make_coco(rows, images=4)
    (folder / "train" / "4.png").write_bytes((folder / "train" / "3.png").read_bytes())
    make_coco([box(1, 1, [1, 1, 9, 9], area=81)], images=1, split="val", folder=folder, first_seed=1)
    before = digests(folder)  # val/1.png is train/2.png
    repaired = repair(folder, tmp_path / "fixed")
    assert digests(folder) == before
    report = check(tmp_path / "fixed")
    assert report.count("error") == 0
    assert repaired.done == {
        "repeated images left out": 1,
        "training images that are in another split too left out": 1,
        "repeated boxes left out": 1,
        "boxes without anything to learn left out": 1,
        "boxes cut to their image": 1,
    }
    train = open_dataset(f"coco:{tmp_path / 'fixed'}", "train")
    assert [image.path.name for image in train.images] == ["1.png", "3.png"]
    assert {a.bbox_xywh for a in train.annotations[1]} == {(1, 1, 9, 9), (35, 20, 5, 9)}
    with pytest.raises(UserError, match="already exists"):
        repair(folder, tmp_path / "fixed")


def test_constant_areas_are_computed_anew(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = make_coco([box(1, 1, [1, 1, 5 + i, 9], area=1) for i in range(10)])
    repair(folder, tmp_path / "fixed")
    tree = json.loads((tmp_path / "fixed" / "annotations" / "instances_train.json").read_text())
    assert [row["area"] for row in tree["annotations"]] == [9 * (5 + i) for i in range(10)]


def test_the_page_shows_each_kind_with_pictures(make_coco: MakeCoco, tmp_path: Path) -> None:
    rows = [box(1, 1, [1, 1, 0, 9], area=1), box(1, 1, [3, 3, 3, 3], area=9)]
    categories = [{"id": 1, "name": "<img src=x onerror=alert(1)>"}, *CATEGORIES[1:]]
    page = write_check_page(
        check(make_coco(rows, categories=categories)), tmp_path / "check.html"
    ).read_text()
    assert "error: empty-box (1)" in page and "warning: tiny-box (1)" in page
    assert page.count('src="data:image/jpeg;base64,') >= 2
    assert "<img src=x" not in page and "&lt;img src=x" in page
    assert "http:" not in page and "https:" not in page


def test_the_command_repairs_and_draws(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = make_coco([box(1, 1, [1, 1, 0, 9], area=1), box(1, 1, [3, 3, 9, 9], area=81)])
    words = [
        "data",
        "check",
        str(folder),
        "--page",
        str(tmp_path / "p.html"),
        "--fix",
        str(tmp_path / "fixed"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1  # the original has errors
    assert "repaired: 1 boxes without anything to learn left out" in result.output
    assert (tmp_path / "p.html").is_file() and check(tmp_path / "fixed").count("error") == 0
    wrong = CliRunner().invoke(app, ["data", "check", str(folder), "--fix", "x", "--no-pixels"])
    assert isinstance(wrong.exception, UserError) and "--fix repairs a dataset as a whole" in str(
        wrong.exception
    )


def test_two_entries_of_one_file_and_reused_ids_lose_nothing(make_coco: MakeCoco, tmp_path: Path) -> None:
    images = [{"id": i, "file_name": "1.png", "width": 40, "height": 30} for i in (1, 2)]
    folder = make_coco([box(1, 1, [1, 1, 9, 9], area=81)], images=1)
    rows = [
        {"id": 1, **box(1, 1, [1, 1, 9, 9], area=81)},
        {"id": 2, **box(1, 1, [20, 1, 9, 9], area=81)},
        {"id": 2, **box(1, 1, [1, 1, 9, 9], area=81)},
        {"id": 3, **box(2, 7, [5, 5, 9, 9], area=81)},
        {"id": 4, **box(2, 7, [float("nan"), 5, 9, 9], area=81)},
    ]
    path = folder / "annotations" / "instances_train.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": list(CATEGORIES)}))
    repaired = repair(folder, tmp_path / "fixed")
    boxes = {a.bbox_xywh for rows in repaired.splits["train"].annotations.values() for a in rows}
    assert boxes == {(1, 1, 9, 9), (20, 1, 9, 9), (5, 5, 9, 9)} and len(repaired.splits["train"]) == 2
    assert repaired.done == {
        "boxes that are not finite left out": 1,
        "annotation ids made unique": 1,
        "repeated boxes left out": 1,
    }
    assert repaired.left["one-file-two-images"] == 1


def test_a_split_that_would_be_empty_stops_the_repair(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = make_coco([box(1, 1, [1, 1, 9, 9], area=81)])
    make_coco([box(1, 1, [1, 1, 9, 9], area=81)], split="val", folder=folder)
    with pytest.raises(UserError, match="no image of train would be left"):
        repair(folder, tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def test_images_in_two_evaluation_splits_are_left_and_said(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = make_coco([box(1, 1, [1, 1, 9, 9], area=81)], split="val")
    make_coco([box(1, 1, [1, 1, 9, 9], area=81)], split="test", folder=folder)
    repaired = repair(folder, tmp_path / "fixed")
    assert repaired.done == {} and repaired.left["image-in-two-splits"] == 2
