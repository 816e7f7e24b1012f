"""Read LabelMe's JSON, one file per image; AnyLabeling and X-AnyLabeling write the same.

Not read by supervision, whose reader takes one flat folder of images and one of files, finds images by the last part of
their path only, skips circles and masks without a count, and stops at the first bad shape without naming its file. The
two agree on rectangles, polygons and groups, by test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import read_json
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import (
    FileIndex,
    exists,
    files_with_suffix,
    image_subfolder,
    is_hidden,
    is_inside_dataset,
    plain_path,
    refuse_images_outside,
    scan_folder,
)
from detrscope.data.image_finder import is_file_name
from detrscope.data.labelled_images import LabelledImage, listed_names, numbered_classes, to_dataset
from detrscope.data.parse_values import parse_boolean, parse_integer, parse_number
from detrscope.data.shapes import Shape, ellipse, polygon, upright_rectangle
from detrscope.data.splits import ANY, canonical_split, find_split
from detrscope.data.validation_log import ValidationLog

LAYOUT = "*.json of LabelMe beside the images, or with images/; or SPLIT/*.json"
IGNORED = "__ignore__"  # LabelMe's label of what is no object
_HEAD = 1 << 16  # bytes in which one of LabelMe's keys begins
_KEYS = re.compile(rb'"(shapes|imageData)"\s*:')
_PROBED = 5  # files of a folder that are looked into to recognise it


def splits(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; empty where a folder has no file of LabelMe."""
    try:
        inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path)]
    except OSError:
        return {}
    named = {
        p.name: p for p in inner if canonical_split(p.name) in ("train", "val", "test") and _has_files(p)
    }
    if named:
        return named
    return {ANY: folder} if _has_files(folder) else {}


def read_split(
    folder: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a folder.

    Rectangles, polygons, circles and masks become boxes; polygons of one label and one `group_id` are one object, a
    crowd where any of them is difficult; lines and points are left out. Category ids count from 1: the order of
    labels.txt or classes.txt where there is one, else all names of any split in alphabetical order. Image and
    annotation ids count from 1, files in order of their names.

    Raises:
        UserError: there is no such split, or a file cannot be read.
    """
    every = splits(folder)
    wanted = every[find_split(split, every, str(folder))]
    images: list[LabelledImage] = []
    names: set[str] = set()
    finder = _Finder(folder)
    if ANY not in every:
        for path in _elsewhere(folder, every.values()):
            validation.add("unused-file", path, f"in none of the splits {', '.join(every)}")
    for part in every.values():
        # Other splits are read for their names only; their problems are reported when they are read themselves.
        log = validation if part == wanted else ValidationLog(split, strict=False)
        for path, tree in _files(part, log):
            shapes = list(_shapes(path, tree, log))
            names |= {shape.label for shape in shapes}
            if part == wanted:
                image = finder.find(path, tree, validation)
                if image is not None:
                    sides = [parse_integer(tree.get(key)) or 0 for key in ("imageWidth", "imageHeight")]
                    width, height = (max(0, side) for side in sides)
                    images.append(LabelledImage(image, path, width, height, shapes))
    declared = listed_names(folder)
    classes = numbered_classes(declared or [], names if declared is None else ())
    name = f"{folder.name} {split}"
    return to_dataset(name, images, classes, validation, source=folder, details=details)


def is_labelme(path: Path) -> bool:
    """Return whether a file begins as LabelMe's do."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _KEYS.search(file.read(_HEAD)) is not None
    except (OSError, ValueError):
        return False


def _has_files(folder: Path) -> bool:
    visible = (path for path in files_with_suffix(folder, ".json") if not is_hidden(path))
    return any(map(is_labelme, islice(visible, _PROBED)))


def _files(folder: Path, validation: ValidationLog) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each file of LabelMe below a folder with its content."""
    contents = scan_folder(folder)
    for path, reason in contents.left_out({".json", ".txt"}):
        validation.add("left-out-file", path, reason)
    for path in contents.others:
        if path.suffix.lower() != ".json":
            continue
        try:
            tree = read_json(path)
        except UserError as error:
            validation.add("bad-label", path, str(error).removeprefix(f"{path}: "))
            continue
        if isinstance(tree, dict) and isinstance(tree.get("shapes"), list):
            yield path, tree
        else:
            validation.add("unused-file", path, "not LabelMe's: no list of 'shapes'")


def _elsewhere(folder: Path, parts: Iterable[Path]) -> list[Path]:
    """Return the JSON files below a folder that are in none of its parts."""
    files = [path for path in scan_folder(folder).others if path.suffix.lower() == ".json"]
    return [path for path in files if not any(path.is_relative_to(part) for part in parts)]


def _shapes(path: Path, tree: dict[str, Any], validation: ValidationLog) -> Iterator[Shape]:
    """Yield the objects of a file; report what cannot be one."""
    groups: dict[tuple[str, str], list[tuple[list[float], bool]]] = {}
    for position, row in enumerate(tree["shapes"]):
        place = f"shapes[{position}]"
        label = row.get("label") if isinstance(row, dict) else None
        if not isinstance(label, str) or not label.strip():
            validation.add("bad-label", path, f"{place}: expected a shape with a 'label'")
            continue
        label = label.strip()
        kind, points = row.get("shape_type") or "polygon", _points(row.get("points"))
        if label == IGNORED:
            validation.add("unused-shape", path, f"{place} is labelled {IGNORED}")
            continue
        if not isinstance(kind, str) or kind not in _FEWEST:
            reason = f"{place} '{label}' is of type {short_repr(kind, 40)}, which encloses nothing"
            validation.add("unused-shape", path, reason, category=label)
            continue
        if points is None or len(points) < 2 * _FEWEST[kind]:
            reason = f"{place}: the {kind} '{label}' needs {_FEWEST[kind]} points of two finite numbers"
            validation.add("bad-box", path, reason, category=label)
            continue
        difficult = parse_boolean(row.get("difficult")) is True
        group = row.get("group_id")
        if kind == "polygon" and group is not None and isinstance(group, int | str):
            groups.setdefault((label, str(group)), []).append((points, difficult))
        else:
            yield _shape(label, kind, points, difficult)
    for (label, _), parts in groups.items():
        yield polygon(label, [points for points, _ in parts], any(difficult for _, difficult in parts))


# Fewest points of each type of shape that has an inside.
_FEWEST = {"rectangle": 2, "polygon": 3, "rotation": 3, "circle": 2, "mask": 2}


def _shape(label: str, kind: str, points: list[float], difficult: bool) -> Shape:
    if kind == "circle":
        radius = math.hypot(points[2] - points[0], points[3] - points[1])
        return ellipse(label, points[:2], (radius, radius), iscrowd=difficult)
    if kind in ("polygon", "rotation"):
        return polygon(label, [points], difficult, turned=kind == "rotation")
    corners = [min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])]
    if kind == "mask":  # its corners are pixels, the last one included
        corners[2:] = [corners[2] + 1, corners[3] + 1]
    return upright_rectangle(label, corners, difficult)


def _points(rows: Any) -> list[float] | None:
    """Return points [[x, y], ...] as x, y, x, y, ...; None where they are not pairs of finite numbers."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        return None
    values = [parse_number(value) for row in rows for value in row]
    return None if None in values else [value for value in values if value is not None]


class _Finder:
    """Search for the image of a file: by its path from there, else by its name there or in a folder images/."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = FileIndex()

    def find(self, path: Path, tree: dict[str, Any], validation: ValidationLog) -> Path | None:
        """Return the path of the image, whether it exists or not; None where the file names none.

        Raises:
            UserError: the only file of that name is outside of the dataset's folder.
        """
        name = tree.get("imagePath")
        name = name.replace("\\", "/") if isinstance(name, str) else ""
        if not is_file_name(name):
            validation.add("bad-label", path, f"imagePath is {short_repr(tree.get('imagePath'), 60)}")
            return None
        last = name.rsplit("/", 1)[-1]
        folders = [path.parent]
        for parent in dict.fromkeys((path.parent, path.parent.parent, self.root)):
            if is_inside_dataset(parent, self.root) and (inner := image_subfolder(parent, "images")):
                folders += [inner, inner / path.parent.name]
        named = path.parent / name
        for candidate in (named, *(folder / last for folder in folders)):
            found = self.files.find(candidate)
            if found is not None and is_inside_dataset(found, self.root):
                return plain_path(found)
        if exists(named):
            refuse_images_outside(named, self.root, path)
        return path.parent / last
