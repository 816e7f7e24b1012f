"""YOLO's text labels, in the folder layouts that they are found in.

Read here and not by supervision, whose reader paints every polygon as a mask of the whole image, takes one
folder of images and one of labels (no list files, no several folders), and stops at the first bad line
without its number. The two agree on valid labels, by test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrscope.config import load_yaml
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.assemble import RawBox, RawImage, assemble
from detrscope.data.coco import polygon_box
from detrscope.data.dataset import DetectionDataset
from detrscope.data.images import SUFFIXES, read_size
from detrscope.data.problems import Problems
from detrscope.data.splits import ANY, find_split

LAYOUT = "data.yaml, or classes.txt, with images/SPLIT/ + labels/SPLIT/ or SPLIT/images/ + SPLIT/labels/"
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")
_SPLITS = ("train", "val", "valid", "test")


@dataclass(frozen=True)
class _Layout:
    names: list[str]
    splits: dict[str, list[Path]]  # folders of images, or list files
    keypoints: int = 0  # numbers behind each box


def splits(folder: Path) -> dict[str, list[Path]]:
    """Where the images of each split are; empty where the folder is not of a YOLO layout."""
    layout = _layout(folder)
    return layout.splits if layout else {}


def read_split(folder: Path, split: str, problems: Problems, details: bool = False) -> DetectionDataset:
    """One split of a folder. Lines: `class cx cy w h [confidence]` or `class x1 y1 x2 y2 x3 y3 ...`, 0..1.

    Of a polygon or a turned box the upright box around it is taken. An image without a label file has no
    objects. Category ids are YOLO's class numbers; image and annotation ids count from 1.

    Raises:
        UserError: no such split, a line that cannot be read, or a class without a name.
    """
    layout = _layout(folder)
    if layout is None:
        raise UserError(f"{folder}: not a YOLO layout; expected {LAYOUT}")
    name = find_split(split, layout.splits, str(folder))
    files = list(dict.fromkeys(f for place in layout.splits[name] for f in _images(place, folder)))
    images = [RawImage(number, file) for number, file in enumerate(files, start=1)]
    return assemble(
        f"{folder.name} {split}",
        images,
        _boxes(images, layout, problems, details),
        ClassTable.of_names(layout.names),
        problems,
        source=folder,
    )


def _layout(folder: Path) -> _Layout | None:
    for path in (
        folder / "data.yaml",
        folder / "data.yml",
        folder / "dataset.yaml",
        *sorted(folder.glob("*.y*ml")),
    ):
        if path.is_file() and "names" in (tree := load_yaml(path)):
            return _from_yaml(path, tree)
    for name in _NAMES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            found = _conventional(folder)
            return _Layout([line.strip() for line in lines if line.strip()], found) if found else None
    return None


def _conventional(folder: Path) -> dict[str, list[Path]]:
    for pattern in ("images/{}", "{}/images", "{}"):
        found = {s: [folder / pattern.format(s)] for s in _SPLITS if (folder / pattern.format(s)).is_dir()}
        if found:
            return found
    return {ANY: [folder / "images"]} if (folder / "images").is_dir() else {}


def _from_yaml(path: Path, tree: dict[str, Any]) -> _Layout:
    names = tree["names"]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise UserError(
                f"{path}: the keys of 'names' must be 0, 1, 2 ...; found {sorted(names, key=str)}"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path}: 'names' must be a list, or a mapping from number to name")
    shape = tree.get("kpt_shape")
    keypoints = math.prod(shape) if isinstance(shape, list) and all(isinstance(n, int) for n in shape) else 0
    root = path.parent / str(tree.get("path") or "")
    root = root if root.is_dir() else path.parent  # a path of the machine that it was written on
    found = {}
    for split in _SPLITS:
        entries = tree.get(split)
        if entries:
            entries = entries if isinstance(entries, list) else [entries]
            places = [_place(str(entry), root, path) for entry in entries]
            if any(place.exists() for place in places):
                found[split] = places
    return _Layout([str(n) for n in names], found or _conventional(path.parent), keypoints)


def _place(entry: str, root: Path, path: Path) -> Path:
    """A folder or list file that a data.yaml names. Roboflow writes `../train/images` for `train/images`."""
    tries = [
        root / entry,
        path.parent / entry,
        path.parent / entry.removeprefix("../"),
        root / entry / "images",
    ]
    return next((p for p in tries if p.exists()), tries[0])


def _images(place: Path, folder: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
    elif place.is_file():
        for line in place.read_text(encoding="utf-8").splitlines():
            if line.strip():
                tries = [place.parent / line.strip(), folder / line.strip()]
                yield next((p for p in tries if p.exists()), tries[0])
    else:
        raise UserError(f"{place}: no such folder or list of images")


def _labels_of(image: Path) -> Path:
    """labels/ in place of the last images/ of the path; beside the image where there is none."""
    parts = list(image.with_suffix(".txt").parts)
    where = [i for i, part in enumerate(parts) if part == "images"]
    if where:
        parts[where[-1]] = "labels"
    return Path(*parts)


def _boxes(images: list[RawImage], layout: _Layout, problems: Problems, details: bool) -> Iterator[RawBox]:
    number = 0
    for image in images:
        labels = _labels_of(image.path)
        if not labels.is_file():
            continue
        try:
            size = read_size(image.path)
            lines = labels.read_text(encoding="utf-8").splitlines()
        except UserError:
            continue  # the image cannot be read, which assemble reports
        except (OSError, UnicodeDecodeError) as error:
            problems.add("bad-label", labels, f"cannot be read ({error})")
            continue
        for at, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            number += 1
            parsed = _parse(line, layout.keypoints)
            if parsed is None:
                reason = f"line {at} is {line.strip()[:60]!r}, expected `class cx cy w h` or a polygon"
                problems.add("bad-label", labels, reason, number)
                continue
            category, box, polygon = parsed
            x, y, w, h = box[0] * size.width, box[1] * size.height, box[2] * size.width, box[3] * size.height
            mask = (
                [[v * (size.height if i % 2 else size.width) for i, v in enumerate(polygon)]]
                if polygon
                else None
            )
            area = w * h if mask is None else _polygon_area(mask[0])
            yield RawBox(
                number, image.id, category, (x, y, w, h), area, segmentation=mask if details else None
            )


def _parse(line: str, keypoints: int) -> tuple[int, tuple[float, ...], list[float]] | None:
    """Class, box x, y, w, h and polygon, 0..1; None where the line has another form."""
    try:
        first, *values = map(float, line.split())
    except ValueError:
        return None
    if not first.is_integer():
        return None
    if len(values) in (4, 5) or (keypoints and len(values) == 4 + keypoints):
        cx, cy, w, h = values[:4]
        return int(first), (cx - w / 2, cy - h / 2, w, h), []
    polygon = values[: len(values) // 2 * 2]  # an odd number at the end is a confidence
    box = polygon_box([polygon]) if len(polygon) >= 6 else None
    return None if box is None else (int(first), tuple(box), polygon)


def _polygon_area(points: list[float]) -> float:
    xs, ys = points[::2], points[1::2]
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x * y2 - x2 * y for x, y, (x2, y2) in zip(xs, ys, following, strict=True))) / 2
