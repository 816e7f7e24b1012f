"""Where a YOLO dataset keeps its images and the names of its classes: data.yaml, obj.data or classes.txt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detrscope.core.errors import UserError
from detrscope.core.text_files import read_lines, read_plain_yaml
from detrscope.data.image_files import (
    child,
    exists,
    is_folder,
    is_hidden,
    is_inside,
    is_picture,
    is_regular,
    refuse_outside,
    scan,
)
from detrscope.data.parse_values import integer, shown
from detrscope.data.splits import ANY
from detrscope.data.validation_log import ValidationLog

LAYOUT = (
    "data.yaml, classes.txt or obj.data, with images/SPLIT/ + labels/SPLIT/ or SPLIT/images/ + SPLIT/labels/"
)
SPLITS = ("train", "val", "valid", "test")
_USUAL = ("data.yaml", "data.yml", "dataset.yaml")
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")
_BESIDE_IMAGES = frozenset(
    {".txt", ".cache", ".json", ".xml", ".yaml", ".yml"}
)  # no surprise in their folder
_NULL = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Layout:
    """The classes of a dataset and where the images of its splits are."""

    names: list[str]
    splits: dict[str, list[Path]]  # folders of images, or list files
    root: Path  # of the dataset
    keypoints: int = 0  # numbers behind each box
    missing: tuple[str, ...] = ()  # splits that are named and not there


def find_layout(source: Path) -> Layout | None:
    """The layout of a folder or of a data.yaml; None where it is not one of YOLO.

    Raises:
        UserError: it is one of YOLO, and cannot be understood.
    """
    if source.is_file():
        return _from_yaml(source, _read_yaml(source))
    for path in (source / name for name in _USUAL):
        if path.is_file() and "names" in (tree := _read_yaml(path)):
            return _from_yaml(path, tree)
    trees = [(p, _tree_with_names(p)) for p in sorted(source.glob("*.y*ml"))]
    others = [(p, tree) for p, tree in trees if tree is not None]
    if len(others) > 1:
        found = " or ".join(path.name for path, _ in others)
        raise UserError(
            f"{source}: the classes may be those of {found}; say which, such as yolo:{others[0][0]}"
        )
    if others:
        return _from_yaml(*others[0])
    if (source / "obj.data").is_file():
        return _from_darknet(source / "obj.data")
    for name in _NAMES:
        if (source / name).is_file():
            found_splits = _conventional(source)
            return Layout(read_lines(source / name), found_splits, source) if found_splits else None
    return None


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = read_plain_yaml(path) or {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping with 'names', found a {type(tree).__name__}")
    return tree


def _tree_with_names(path: Path) -> dict[str, Any] | None:
    """A YAML file of any name if it lists classes; another program's may be there too, in a form of its own."""
    if is_hidden(path) or path.name in _USUAL or not path.is_file():
        return None
    try:
        tree = _read_yaml(path)
    except UserError:
        return None
    return tree if "names" in tree else None


def _from_darknet(path: Path) -> Layout | None:
    """Darknet's obj.data, as CVAT writes it ("YOLO 1.1"): `names = data/obj.names`, `train = data/train.txt`."""
    pairs = (line.partition("=") for line in read_lines(path))
    settings = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    if "names" not in settings:
        raise UserError(f"{path}: expected a line such as `names = data/obj.names`")
    lists = {split: [_entry(settings[split], [path.parent], path)] for split in SPLITS if split in settings}
    there = {split: places for split, places in lists.items() if exists(places[0])}
    names = _entry(settings["names"], [path.parent], path)
    missing = tuple(split for split in lists if split not in there)
    return Layout(read_lines(names), there, path.parent, missing=missing)


def _conventional(folder: Path) -> dict[str, list[Path]]:
    for pattern in ("images/{}", "{}/images", "{}"):
        places = {split: _nested(folder, pattern.format(split)) for split in SPLITS}
        found = {split: [place] for split, place in places.items() if place}
        if found:
            return found
    lists = {s: [folder / f"{s}.txt"] for s in SPLITS if _is_list_of_images(folder / f"{s}.txt")}
    if lists:
        return lists
    images = child(folder, "images")
    return {ANY: [images]} if images else {}


def _nested(folder: Path, path: str) -> Path | None:
    """A folder by its path inside another one, letter case apart."""
    inner: Path | None = folder
    for name in path.split("/"):
        inner = child(inner, name) if inner else None
    return inner


def _is_list_of_images(path: Path) -> bool:
    return is_regular(path) and any(is_picture(Path(line)) for line in read_lines(path)[:1])


def _from_yaml(path: Path, tree: dict[str, Any]) -> Layout:
    names = _names(path, tree)
    shape = tree.get("kpt_shape")
    sides = [integer(side) for side in shape] if isinstance(shape, list) else []
    keypoints = math.prod(side for side in sides if side is not None) if sides and None not in sides else 0
    entry = tree.get("path", "")
    if not isinstance(entry, str):
        raise UserError(f"{path}: 'path' is {shown(entry)}, expected a folder")
    root = path.parent if entry in _NULL else path.parent / entry
    root = root if is_folder(root) else path.parent  # a path of the machine that it was written on
    refuse_outside(root, path.parent, path)
    found: dict[str, list[Path]] = {}
    missing = []
    for split in SPLITS:
        entries = tree.get(split, "")
        entries = entries if isinstance(entries, list) else [entries]
        if not all(isinstance(entry, str) for entry in entries):
            raise UserError(
                f"{path}: '{split}' is {shown(entries)}, expected a folder, a list file, or several"
            )
        places = [_place(entry, root, path) for entry in entries if entry not in _NULL]
        if any(map(exists, places)):
            found[split] = places
        elif places:
            missing.append(split)
    return Layout(
        names, found or _conventional(path.parent), root, keypoints, tuple(missing) if found else ()
    )


def _names(path: Path, tree: dict[str, Any]) -> list[str]:
    names = tree.get("names")
    if isinstance(names, dict):
        numbered = {integer(key): name for key, name in names.items()}
        if set(numbered) != set(range(len(names))):
            raise UserError(f"{path}: the keys of 'names' must be 0, 1, 2 ...; found {shown(list(names))}")
        names = [numbered[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path}: 'names' must be a list of names, or a mapping from number to name")
    count = tree.get("nc", len(names))
    if integer(count) != len(names):
        raise UserError(
            f"{path}: 'nc' is {shown(count)}, but 'names' has {len(names)} names; correct one of them"
        )
    return names


def _place(entry: str, root: Path, path: Path) -> Path:
    """A folder or list file that a data.yaml names. Roboflow writes `../train/images` for `train/images`."""
    entry = entry.replace("\\", "/")  # written on Windows
    tries = [root / entry, path.parent / entry]
    tries += [path.parent / entry.removeprefix("../"), root / entry / "images"]
    there = [p for p in tries if exists(p)]
    place = next((p for p in there if is_inside(p, root)), there[0] if there else tries[0])
    if there:
        refuse_outside(place, root, path)
    return place


def _entry(entry: str, folders: list[Path], where: Path) -> Path:
    """A file that a list names, by its whole path or the end of it: lists are written on other machines, too.

    Raises:
        UserError: the only file of that name is outside of the folders.
    """
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    tries = [folder / entry for folder in folders]
    tries += [folder.joinpath(*parts[i:]) for i in range(len(parts)) for folder in folders]
    there = [path for path in tries if exists(path)]
    inside = next((p for p in there if any(is_inside(p, folder) for folder in folders)), None)
    if inside is None and there:
        refuse_outside(there[0], folders[0], where)
    return inside or (there or tries)[0]


def images_of(place: Path, layout: Layout, problems: ValidationLog) -> Iterator[Path]:
    """The images of a folder or a list file; what is left out of a folder is reported.

    Raises:
        UserError: there is no such place, or it names a file outside of the dataset.
    """
    if is_folder(place):
        found = scan(place)
        for path, reason in found.left_out(_BESIDE_IMAGES):
            problems.add("left-out-file", path, reason)
        yield from found.pictures
    elif is_regular(place):
        for line in read_lines(place):
            path = _entry(line, [place.parent, layout.root], place)
            if is_hidden(path):
                problems.add("left-out-file", path, "hidden, or the system's")
            else:
                yield path
    else:
        raise UserError(f"{place}: no such folder or list of images")
