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
from detrscope.core.text_files import read_lines, read_text
from detrscope.data.assemble import RawBox, RawImage, assemble
from detrscope.data.coco import polygon_box
from detrscope.data.dataset import DetectionDataset
from detrscope.data.files import (
    Directory,
    hidden_pictures,
    is_hidden,
    is_inside,
    is_picture,
    name_key,
    refuse_outside,
    walk,
)
from detrscope.data.images import read_size
from detrscope.data.problems import Problems
from detrscope.data.splits import ANY, find_split
from detrscope.data.values import integer

LAYOUT = (
    "data.yaml, classes.txt or obj.data, with images/SPLIT/ + labels/SPLIT/ or SPLIT/images/ + SPLIT/labels/"
)
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")
_SPLITS = ("train", "val", "valid", "test")
_OF_LABELS = frozenset({".txt", ".cache", ".json", ".xml", ".yaml", ".yml"})
_NOT_LABELS = frozenset({"classes.txt", "labels.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})


@dataclass(frozen=True)
class _Layout:
    names: list[str]
    splits: dict[str, list[Path]]  # folders of images, or list files
    root: Path  # of the dataset
    keypoints: int = 0  # numbers behind each box


def splits(source: Path) -> dict[str, list[Path]]:
    """Where the images of each split are; empty where the folder, or the data.yaml, is not of a YOLO layout."""
    layout = _layout(source)
    return layout.splits if layout else {}


def read_split(source: Path, split: str, problems: Problems, details: bool = False) -> DetectionDataset:
    """One split of a folder. Lines: `class cx cy w h [confidence]` or `class x1 y1 x2 y2 x3 y3 ...`, 0..1.

    Of a polygon or a turned box the upright box around it is taken. An image without a label file has no objects,
    but a split without any label file is an error. Category ids are YOLO's class numbers; image and annotation ids
    count from 1.

    Raises:
        UserError: no such split, a line that cannot be read, or a class without a name.
    """
    layout = _layout(source)
    if layout is None:
        raise UserError(f"{source}: not a YOLO layout; expected {LAYOUT}")
    folder = source if source.is_dir() else source.parent
    name = find_split(split, layout.splits, str(source))
    files = list(dict.fromkeys(f for place in layout.splits[name] for f in _images(place, layout, problems)))
    images = [RawImage(number, file) for number, file in enumerate(files, start=1)]
    labels = {image.path: _labels_of(image.path, layout.root, problems) for image in images}
    _report_labels(labels, layout.splits[name], source, problems)
    return assemble(
        f"{folder.name} {split}",
        images,
        _boxes(images, labels, layout, problems, details),
        ClassTable.of_names(layout.names),
        problems,
        source=source,
    )


def _layout(source: Path) -> _Layout | None:
    if source.is_file():
        return _from_yaml(source, load_yaml(source))
    folder = source
    usual = [folder / name for name in ("data.yaml", "data.yml", "dataset.yaml")]
    others = [p for p in sorted(folder.glob("*.y*ml")) if p not in usual and not is_hidden(p)]
    for path in (*usual, *others):
        if path.is_file() and "names" in (tree := load_yaml(path)):
            return _from_yaml(path, tree)
    if (folder / "obj.data").is_file():
        return _from_darknet(folder / "obj.data")
    for name in _NAMES:
        if (folder / name).is_file():
            found = _conventional(folder)
            return _Layout(read_lines(folder / name), found, folder) if found else None
    return None


def _from_darknet(path: Path) -> _Layout | None:
    """Darknet's obj.data, as CVAT writes it ("YOLO 1.1"): `names = data/obj.names`, `train = data/train.txt`."""
    pairs = (line.partition("=") for line in read_lines(path))
    settings = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    folder = path.parent

    def found(entry: str) -> Path:
        tries = [folder / entry, folder / entry.removeprefix("data/"), folder / Path(entry).name]
        place = next((p for p in tries if p.is_file()), tries[0])
        refuse_outside(place, folder, path)
        return place

    splits = {s: [found(settings[s])] for s in _SPLITS if s in settings and found(settings[s]).is_file()}
    if "names" not in settings or not splits:
        return None
    return _Layout(read_lines(found(settings["names"])), splits, folder)


def _conventional(folder: Path) -> dict[str, list[Path]]:
    for pattern in ("images/{}", "{}/images", "{}"):
        found = {s: [folder / pattern.format(s)] for s in _SPLITS if (folder / pattern.format(s)).is_dir()}
        if found:
            return found
    return {ANY: [folder / "images"]} if (folder / "images").is_dir() else {}


def _from_yaml(path: Path, tree: dict[str, Any]) -> _Layout:
    names = tree.get("names")
    if isinstance(names, dict):
        numbered = {integer(key): name for key, name in names.items()}
        if set(numbered) != set(range(len(names))):
            keys = str(sorted(map(str, names)))[:160]
            raise UserError(f"{path}: the keys of 'names' must be 0, 1, 2 ...; found {keys}")
        names = [numbered[i] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise UserError(f"{path}: 'names' must be a list of names, or a mapping from number to name")
    shape = tree.get("kpt_shape")
    keypoints = math.prod(shape) if isinstance(shape, list) and all(isinstance(n, int) for n in shape) else 0
    root = path.parent / str(tree.get("path") or "")
    root = root if root.is_dir() else path.parent  # a path of the machine that it was written on
    refuse_outside(root, path.parent, path)
    found = {}
    for split in _SPLITS:
        entries = tree.get(split)
        if entries:
            entries = entries if isinstance(entries, list) else [entries]
            places = [_place(str(entry), root, path) for entry in entries]
            if any(place.exists() for place in places):
                for place in places:
                    refuse_outside(place, root, path)
                found[split] = places
    return _Layout([str(n) for n in names], found or _conventional(path.parent), root, keypoints)


def _place(entry: str, root: Path, path: Path) -> Path:
    """A folder or list file that a data.yaml names. Roboflow writes `../train/images` for `train/images`."""
    tries = [
        root / entry,
        path.parent / entry,
        path.parent / entry.removeprefix("../"),
        root / entry / "images",
    ]
    there = [p for p in tries if p.exists()]
    return next((p for p in there if is_inside(p, root)), there[0] if there else tries[0])


def _images(place: Path, layout: _Layout, problems: Problems) -> Iterator[Path]:
    """The images of a folder or a list file; what is left out of a folder is reported."""
    if place.is_dir():
        for path in walk(place):
            if is_picture(path):
                yield path
            elif path.suffix.lower() not in _OF_LABELS:
                problems.add("left-out-file", path, "not the ending of a picture that can be read")
        for path in hidden_pictures(place):
            problems.add("left-out-file", path, "a hidden file")
    elif place.is_file():
        for entry in read_lines(place):
            tries = [place.parent / entry, layout.root / entry]
            tries += [folder / entry.removeprefix("data/") for folder in (place.parent, layout.root)]
            found = next((p for p in tries if p.exists()), tries[0])
            refuse_outside(found, layout.root, place)
            yield found
    else:
        raise UserError(f"{place}: no such folder or list of images")


def _labels_of(image: Path, root: Path, problems: Problems) -> Path | None:
    """The label file of an image: labels/ in place of an images/ of the path, the last one first, or beside it.

    The folders above the dataset's own count only where nothing below it fits.
    """
    name = image.with_suffix(".txt")
    parts = list(name.parts)
    above = len(root.parts) if name.is_relative_to(root) else 0
    where = [i for i, part in enumerate(parts[:-1]) if part.casefold() == "images"]
    where = [*(i for i in reversed(where) if i >= above), *(i for i in reversed(where) if i < above)]
    tries = [Path(*parts[:i], word, *parts[i + 1 :]) for i in where for word in _alike(parts[i])]
    directory = Directory()
    found = [path for one in (*tries, name) if (path := directory.find(one)) is not None]
    found = list(dict.fromkeys(found))
    if len(found) > 1 and found[0].read_bytes() != found[1].read_bytes():
        problems.add("labels-in-two-places", image, f"has labels in {found[0]} and other ones in {found[1]}")
    return found[0] if found else None


def _alike(images: str) -> tuple[str, ...]:
    return ("labels",) if images == "images" else ("labels", "Labels")


def _report_labels(
    labels: dict[Path, Path | None], places: list[Path], source: Path, problems: Problems
) -> None:
    """Report label files that no image uses, and refuse a split whose images have none at all."""
    used = {path for path in labels.values() if path is not None}
    if labels and not used:
        looked = places[0].parent if places[0].is_file() else places[0]
        reason = f"no label file for any of its {len(labels)} images, such as {next(iter(labels)).name}"
        problems.add("no-labels", looked, reason)
    folders = {path.parent for path in used}
    keys = {name_key(str(path)) for path in used}
    for folder in sorted(folders):
        for path in sorted(folder.glob("*.txt")):
            if is_hidden(path) or path.name in _NOT_LABELS or name_key(str(path)) in keys:
                continue
            if folder not in {
                image.parent for image in labels
            }:  # elsewhere it may be of another split's image
                problems.add("unused-file", path, "a label file without an image")


def _boxes(
    images: list[RawImage],
    labels_of: dict[Path, Path | None],
    layout: _Layout,
    problems: Problems,
    details: bool,
) -> Iterator[RawBox]:
    number = 0
    for image in images:
        labels = labels_of[image.path]
        if labels is None:
            continue
        try:
            size = read_size(image.path)
        except UserError:
            continue  # the image cannot be read, which assemble reports
        try:
            lines = read_text(labels).splitlines()
        except UserError as error:
            problems.add("bad-label", labels, str(error).removeprefix(f"{labels}: "))
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
    if not first.is_integer() or not all(map(math.isfinite, values)):
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
