"""Drawn dogs: the folder that is written, and the source."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from typer.testing import CliRunner, Result

from detrscope.cli.data import app
from detrscope.core.errors import UserError
from detrscope.data import drawn_dogs as drawn
from detrscope.data.badge_masks import read_badge_mask
from detrscope.data.check import check
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.part_masks import read_part_mask
from detrscope.data.subset import Counts, cut_subset
from detrscope.synthetic import parts as part
from detrscope.synthetic.scene import VERSION, draw_scene


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "drawn-dogs"


def test_draw_writes_what_can_be_opened_and_checked(tmp_path: Path) -> None:
    out = tmp_path / "dogs"
    result = run("draw", "--count", 12, "--seed", 5, "--size", 64, "--out", out)
    assert result.exit_code == 0, result.exception
    assert {p.name for p in out.iterdir()} == {"images", "annotations.json", "parts"}
    dataset = open_dataset(str(out), "train", details=True)
    dogs = sum(map(len, dataset.annotations.values()))
    assert f"12 images, {dogs} dogs" in result.stdout and dogs > 5
    assert dataset.classes.names == ("dog",)
    report = check(out)
    assert report.count("error") == report.count("warning") == 0
    for image in dataset.images:
        scene = draw_scene(5, image.id, 64)
        assert np.array_equal(read_image(image.path).permute(1, 2, 0).numpy(), scene.image)
        parts, instance, names = read_part_mask(image.path)
        assert names == tuple(part.NAMES.values()) and names[3] == "muzzle"
        assert np.array_equal(parts, scene.parts) and np.array_equal(instance, scene.instance)
        for row, annotation in enumerate(dataset.annotations[image.id]):
            mask = scene.instance == row + 1
            assert annotation.area == mask.sum()
            runs = coco_mask.frPyObjects(annotation.segmentation, 64, 64)
            assert coco_mask.area(runs) == mask.sum()
            assert coco_mask.toBbox(runs).tolist() == list(annotation.bbox_xywh)
            counts = annotation.segmentation["counts"]
            values = np.repeat(np.arange(len(counts)) % 2, counts)
            assert np.array_equal(values.reshape(64, 64, order="F"), mask)
            x, y, w, h = annotation.bbox_xywh
            assert [x, y, x + w, y + h] == scene.boxes_xyxy[row].tolist()
    assert json.loads((out / "parts" / "names.json").read_text())["parts"][3] == "muzzle"
    assert json.loads((out / "annotations.json").read_text())["info"]["version"] == VERSION


def test_an_image_does_not_depend_on_count_or_start(tmp_path: Path) -> None:
    drawn.write_drawn(tmp_path / "few", count=2, seed=1, size=48, start=3)
    drawn.write_drawn(tmp_path / "many", count=5, seed=1, size=48)
    for kind in ("images", "parts"):
        for name in ("000003.png", "000004.png"):
            assert (tmp_path / "few" / kind / name).read_bytes() == (
                tmp_path / "many" / kind / name
            ).read_bytes()


def test_draw_refuses(tmp_path: Path) -> None:
    (tmp_path / "note.txt").touch()
    for arguments, message in (
        (["--out", tmp_path], "already exists"),
        (["--out", tmp_path / "new", "--size", 8], "drawn dogs: size is 8: expected 32 or more"),
    ):
        error = run("draw", "--count", 2, *arguments).exception
        assert isinstance(error, UserError) and message in str(error)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_badges_decide_the_class_and_are_written(tmp_path: Path) -> None:
    """The same dogs with badges, swapped badges and none: equal boxes and classes, equal pixels outside the badges."""
    sets = {}
    for badge in ("none", "class", "swapped", "removed"):
        result = run(
            "draw", "--count", 8, "--size", 96, "--seed", 2, "--badge", badge, "--out", tmp_path / badge
        )
        assert result.exit_code == 0, result.exception
        sets[badge] = open_dataset(str(tmp_path / badge), "train")
        tree = json.loads((tmp_path / badge / "annotations.json").read_text())
        assert tree["info"]["badge"] == badge
        assert all(("badge_bbox" in row) == (badge != "none") for row in tree["annotations"])
        assert (tmp_path / badge / "badges").exists() == (badge != "none")
    assert sets["none"].classes.names == ("dog",)
    assert sets["class"].classes.names == ("red dog", "blue dog")
    assert sets["class"].annotations == sets["swapped"].annotations == sets["removed"].annotations
    rows = json.loads((tmp_path / "class" / "annotations.json").read_text())["annotations"]
    for image in sets["class"].images:
        pixels = {
            name: read_image(tmp_path / name / "images" / image.path.name).permute(1, 2, 0).numpy()
            for name in sets
        }
        mask = read_badge_mask(image.path)
        assert np.array_equal(pixels["none"], pixels["removed"])
        changed = (pixels["class"] != pixels["none"]).any(-1)
        assert not (changed & (mask == 0)).any()
        assert [a.bbox_xywh for a in sets["class"].annotations[image.id]] == [
            a.bbox_xywh for a in sets["none"].annotations[image.id]
        ]
        for dog, row in enumerate(r for r in rows if r["image_id"] == image.id):
            x, y, w, h = row["badge_bbox"]
            own = mask == dog + 1
            assert own[y : y + h, x : x + w].sum() == own.sum() > 0
            red = pixels["class"][own].mean(0).argmax() == 0
            assert red == (row["category_id"] == 1)
            assert (pixels["swapped"][own].mean(0).argmax() == 0) != red


def test_wrong_badges_are_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"badge is 'green': expected .*none.*class"):
        open_dataset("drawn-dogs:badge=green", "val")
    dataset = open_dataset(SMALL, "val")
    with pytest.raises(UserError, match=r"no badge mask that can be read; draw dogs with badges"):
        read_badge_mask(dataset.images[0].path)
    with_badges = open_dataset(f"{SMALL},badge=class", "val")
    assert read_badge_mask(with_badges.images[0].path).shape == (48, 48)
    assert with_badges.images[0].path != dataset.images[0].path


SMALL = "drawn-dogs:count=6,val=4,test=3,size=48"


def test_source_is_drawn_once_and_splits_are_disjoint(cache: Path) -> None:
    assert splits_of(SMALL) == ("train", "val", "test")
    found = {split: open_dataset(SMALL, split) for split in ("train", "valid", "test")}
    assert [len(d) for d in found.values()] == [6, 4, 3]
    assert found["valid"].name == "drawn-dogs val"
    ids = [i.id for d in found.values() for i in d.images]
    assert len(set(ids)) == len(ids) == 13
    pixels = {i.path.read_bytes() for d in found.values() for i in d.images}
    assert len(pixels) == 13
    report = check(SMALL)
    assert report.count("error") == 0 and not [p for p in report.problems if p.kind.startswith("duplicate")]
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*.json")}
    assert len(before) == 6
    open_dataset(SMALL, "train")
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.json")} == before
    first = read_image(found["train"].images[0].path).permute(1, 2, 0).numpy()
    assert np.array_equal(first, draw_scene(0, 0, 48).image)


def test_defaults() -> None:
    options = drawn.Options.parsed(".")  # what Path("") becomes
    assert (options.count, options.val, options.test, options.seed, options.size) == (2000, 300, 300, 0, 160)
    assert splits_of("drawn-dogs:") == splits_of("drawn-dogs") == ("train", "val", "test")
    bounds = [(start, start + drawn.MAX_COUNT) for start in drawn.STARTS.values()]
    assert all(a[1] <= b[0] for a, b in pairwise(bounds))


def test_a_concurrent_draw_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = drawn.write_drawn

    def twice(out: Path, **settings: int) -> int:
        write(out, **settings)
        return write(out, **settings)  # finds the other's folder in its place

    monkeypatch.setattr(drawn, "write_drawn", twice)
    assert len(open_dataset(SMALL, "val")) == 4
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set DETRSCOPE_CACHE to a folder that can"):
        open_dataset(SMALL, "val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("cuont=3", "unknown key 'cuont'; did you mean 'count'"),
        ("count", "'count': expected key=value"),
        ("count=many", "count is 'many': .*integer"),
        ("count=0", "count is '0': expected 1 or more"),
        ("seed=-1", "seed is '-1': expected 0 or more"),
        ("size=16", "size is '16': expected 32 or more"),
        ("seed=1,seed=2", "'seed' is given twice"),
    ],
)
def test_wrong_options(cache: Path, options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(f"drawn-dogs:{options}", "train")
    assert not cache.exists()


def test_drawn_dogs_work_as_a_source_everywhere(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split 'trian'; did you mean 'train'"):
        open_dataset(SMALL, "trian")
    parts = cut_subset(SMALL, ["dog"], tmp_path / "cut", Counts(2, 1))
    assert len(parts["train"]) == 3
    sheet = tmp_path / "sheet.png"
    assert (
        run("show", SMALL, "--out", sheet, "--count", 2, "--data.short_side=48", "--no-augment").exit_code
        == 0
    )
    assert sheet.is_file()
