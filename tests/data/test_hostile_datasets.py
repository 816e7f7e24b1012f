"""Hostile datasets: pipes, devices, deep nesting, thousands of names, values of any type."""

from __future__ import annotations

import copy
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.core.text_files import read_plain_yaml, read_yaml
from detrscope.data.check import check
from detrscope.data.convert import convert_dataset
from detrscope.data.image_files import SUFFIXES
from detrscope.data.image_header import MAX_PIXELS, max_image_pixels, read_size
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.data.parallel_decode import PixelGate
from detrscope.data.pixel_cache import PixelCache
from tests.support.dataset_folders import write_coco_json, write_yolo
from tests.support.datasets import MakeCoco, noise_image
from tests.support.voc_folders import PAGES, write_voc, xml

ODD = [
    *(None, True, -1, 1.5, "", "x", "1e999", float("inf"), float("nan"), 10**25, -(10**25), 1e308),
    *([], [1], {}, {"a": 1}, [[]], ["a", "b", "c", "d"], [1e308] * 4, {"size": "x", "counts": []}),
    *("\ud800", "\0", "a" * 5000, "../../x", "/etc/passwd", "/dev/zero", ".", "%00", "C:\\x\\1.png"),
]


def spoil(tree: Any, generator: random.Random) -> None:
    """Put an odd value in some place of a tree, or take something out."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = generator.choice(keys)
        if isinstance(node[key], dict | list) and generator.random() < 0.75:
            node = node[key]
        elif isinstance(node, dict) and generator.random() < 0.15:
            del node[key]
            return
        else:
            node[key] = copy.deepcopy(generator.choice(ODD))
            return


@pytest.mark.parametrize("seed", range(60))
def test_odd_values_are_read_or_raise_one_error(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    (tmp_path / "train").mkdir()
    noise_image(64, 48).save(tmp_path / "train" / "1.png")
    path = write_coco_json(
        tmp_path / "annotations" / "instances_train.json",
        ["1.png", "2.png"],
        segmentation=[[1, 2, 3, 4, 5, 6]],
    )
    folder = write_yolo(tmp_path / "yolo")
    for _ in range(5):
        tree = json.loads(path.read_text())
        spoil(tree, generator)
        (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(tree))
        layout = {"names": ["dog"], "train": "train/images", "nc": 1, "path": ".", "kpt_shape": [2, 3]}
        spoil(layout, generator)
        (folder / "data.yaml").write_text(json.dumps(layout))
        for source in (f"coco:{tmp_path}", f"yolo:{folder}"):
            for read in (lambda s: open_dataset(s, "train").coco_json(), check):
                try:
                    read(source)
                except UserError as error:
                    assert len(str(error)) < 1500


def a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.symlink("/dev/zero", path)


@pytest.mark.parametrize("make", [a_pipe, a_device])
@pytest.mark.parametrize(
    "name", ["train/images/0.png", "train/labels/0.txt", "data.yaml", "classes.txt", "voc/Annotations/a.xml"]
)
def test_pipes_and_devices_do_not_block(make: Any, name: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    write_voc(tmp_path / "voc", PAGES)
    make(folder / name)
    source = f"voc:{folder / 'voc'}" if name.startswith("voc") else f"yolo:{folder}"
    try:
        report = check(source)
    except UserError:
        return
    assert any("regular file" in p.reason for p in report.problems) or name == "classes.txt"
    if report.count("error"):
        with pytest.raises(UserError):
            convert_dataset(source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["a.json", "results", "pipe"])
def test_annotations_that_are_not_regular_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    a_pipe(path)
    with pytest.raises(UserError, match=r"not a regular file|no such annotation|layout is not recognised"):
        open_dataset(path if kind != "pipe" else tmp_path, "train")


def test_links_to_other_files_are_not_copied(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set")
    (tmp_path / "secret").write_text("secret")
    (folder / "train" / "images" / "0.png").unlink()
    os.symlink(tmp_path / "secret", folder / "train" / "images" / "0.png")
    with pytest.raises(UserError, match=r"0\.png: not an image"):
        convert_dataset(folder, tmp_path / "out")
    written = convert_dataset(folder, tmp_path / "out", skip_unreadable=True)["train"]
    assert [i.path.name for i in written.images] == ["1.png"]


MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("read", [read_yaml, read_plain_yaml])
@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 2_000,
        MERGE_BOMB,
        "a: &a [*a]",
        "? [a]\n: 3",
        "a: !!python/object/apply:os.system [x]",
        "a: !!binary x",
    ],
)
def test_hostile_yaml_is_refused_quickly(read: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(UserError, match=r"a\.yaml") as caught:
        read(path)
    assert "\n" not in str(caught.value) and time.process_time() - start < 20


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "shift_jis", "foo", "utf-7"])
def test_xml_of_any_encoding_is_read_or_named(encoding: str, tmp_path: Path) -> None:
    page = xml(("hé", (1, 2, 11, 22)))
    codec = encoding if encoding in ("utf-8", "utf-16", "iso-8859-1") else "utf-8"
    write_voc(tmp_path, {"a": "", "b": PAGES["b"]})
    (tmp_path / "Annotations" / "a.xml").write_bytes(
        f'<?xml version="1.0" encoding="{encoding}"?>{page}'.encode(codec)
    )
    if codec == encoding:
        assert "hé" in open_dataset(tmp_path, "x").classes.names
    else:
        with pytest.raises(UserError, match=r"a\.xml: not valid XML"):
            open_dataset(tmp_path, "x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<html/>", "begins with <html>"),
        ("<annotation>" + "<a>" * 100_000, "not valid XML"),
        (xml(("", (1, 2, 11, 22))), "an object without a name"),
        (xml(("dog", (1, 2, 11, 22))).replace("<width>40", "<width>inf"), "width is 'inf'"),
        (xml(("dog", (1, 2, float("nan"), 22))), "lacks a number"),
        (xml(("dog", (1, 2, 11, 22))).replace("<difficult>0", "<difficult>perhaps"), "difficult is neither"),
    ],
)
def test_invalid_xml_values_are_named(text: str, reason: str, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": text, "b": PAGES["b"]})
    with pytest.raises(UserError, match=rf"a\.xml: .*{reason}"):
        open_dataset(tmp_path, "x")


@pytest.mark.parametrize("key", ["image", "annotation", "category"])
def test_64_bit_ids_survive_and_larger_ones_are_refused(key: str, make_coco: MakeCoco) -> None:
    def made(identity: int) -> Path:
        rows = [{"id": identity if key == "annotation" else 5, "image_id": identity if key == "image" else 1}]
        rows[0] |= {"category_id": identity if key == "category" else 1, "bbox": [1, 1, 9, 9]}  # type: ignore[dict-item]
        folder = make_coco(rows, images=1, categories=[{"id": rows[0]["category_id"], "name": "dog"}])
        path = folder / "annotations" / "instances_train.json"
        tree = json.loads(path.read_text())
        tree["images"][0]["id"] = rows[0]["image_id"]
        path.write_text(json.dumps(tree))
        return folder

    large = 2**63 - 1
    (row,) = open_dataset(made(large), "train").coco_json()["annotations"]
    assert row["id" if key == "annotation" else f"{key}_id"] == large
    with pytest.raises(UserError, match=f"{10**20}.* 64 bits"):
        open_dataset(made(10**20), "train")


def test_30_000_categories_are_checked_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    noise_image(64, 48).save(tmp_path / "train" / "a.png")
    path = write_coco_json(tmp_path / "annotations" / "instances_train.json", ["a.png"])
    tree = json.loads(path.read_text())
    tree["categories"] = [{"id": i, "name": f"class {i}"} for i in range(30_000)]
    path.write_text(json.dumps(tree))
    start = time.process_time()
    check(tmp_path)
    assert time.process_time() - start < 10


def test_every_decodable_suffix_counts_as_an_image(tmp_path: Path) -> None:
    for ending in (
        ".jfif",
        ".jpe",
        ".tga",
        ".ppm",
        ".pgm",
        ".tif",
        ".bmp",
        ".webp",
        ".gif",
        ".pcx",
        ".png",
        ".jp2",
    ):
        assert ending in SUFFIXES
        path = tmp_path / f"a{ending}"
        noise_image(8, 8).convert("L" if ending == ".pgm" else "RGB").save(
            path, format=Image.registered_extensions()[ending]
        )
        assert read_image(path).shape == (3, 8, 8)
    assert not {".eps", ".ps", ".pdf", ".wmf", ".mpg", ".h5", ".fits"} & SUFFIXES


def test_the_limit_of_pixels_can_be_raised_and_lowered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 20_000)).save(path)
    monkeypatch.setenv(MAX_PIXELS, "400000000")
    before = Image.MAX_IMAGE_PIXELS
    assert read_size(path).width == 20_000 and before == Image.MAX_IMAGE_PIXELS
    noise_image(20, 20).save(path)
    monkeypatch.setenv(MAX_PIXELS, "399")
    with pytest.raises(UserError, match=r"too many pixels: 20x20; the limit is 399; .*DETRSCOPE_MAX_PIXELS"):
        read_image(path)
    monkeypatch.setenv(MAX_PIXELS, "many")
    with pytest.raises(UserError, match="DETRSCOPE_MAX_PIXELS='many' in the environment: expected a number"):
        max_image_pixels()


def test_pixel_gate_bounds_concurrent_pixels() -> None:
    gate, inside, most = PixelGate(100), [0], [0]
    lock = threading.Lock()

    def decode(pixels: int) -> None:
        with gate.room_for(pixels):
            with lock:
                inside[0] += min(pixels, 100)
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= min(pixels, 100)

    threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in [30, 500, 30, 30, 500, 30] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 60 <= most[0] <= 100


def test_images_of_unknown_size_fail_before_allocation(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "train" / "images" / "0.png").write_bytes(b"no picture")
    (broken, _) = open_dataset(folder, "train").images
    assert (broken.width, broken.height) == (0, 0)

    def read(index: int) -> Any:
        raise UserError(f"{broken.path}: not an image")

    with pytest.raises(UserError, match=r"0\.png: not an image"):
        PixelCache.filled("set", np.array([(0, 0), (48, 64)]), read)
    assert check(folder).statistics[0].image_sizes["smallest"] == [64, 48]
