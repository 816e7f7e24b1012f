"""Find the images and class names of a YOLO dataset: data.yaml, obj.data or classes.txt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import read_lines, read_plain_yaml
from detrscope.data.image_files import (
    HIDDEN,
    exists,
    image_subfolder,
    is_folder,
    is_hidden,
    is_image_file,
    is_inside_dataset,
    is_regular,
    refuse_images_outside,
    scan_folder,
)
from detrscope.data.parse_values import ROW_LENGTH, parse_integer
from detrscope.data.splits import ANY
from detrscope.data.validation_log import ValidationLog

LAYOUT = (
    "data.yaml, classes.txt or obj.data, with images/SPLIT/ + labels/SPLIT/ or SPLIT/images/ + SPLIT/labels/"
)
SPLITS = ("train", "val", "valid", "test")
_USUAL = ("data.yaml", "data.yml", "dataset.yaml")
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")
# Suffixes that are expected in a folder of images, and not reported.
_BESIDE_IMAGES = frozenset({".txt", ".cache", ".json", ".xml", ".yaml", ".yml"})
_NULL = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Layout:
    """Class names of a dataset and the locations of its images."""

    names: list[str]
    splits: dict[str, list[Path]]  # folders of images, or list files
    root: Path  # folder of the dataset
    keypoints: int = 0  # numbers after each box
    missing: tuple[str, ...] = ()  # splits that are named but do not exist


def find_layout(source: Path) -> Layout | None:
    """Return the layout of a folder or of a data.yaml; None where it is not a YOLO layout.

    Raises:
        UserError: it is a YOLO layout with contents that cannot be read.
    """
    if source.is_file():
        return _from_yaml(source, _read_yaml(source))
    for path in (source / name for name in _USUAL):
        if path.is_file() and "names" in (usual := _read_yaml(path)):
            return _from_yaml(path, usual)
    others = [(p, tree) for p in sorted(source.glob("*.y*ml")) if (tree := _tree_with_names(p)) is not None]
    if len(others) > 1:
        names = " or ".join(path.name for path, _ in others)
        raise UserError(
            f"{source}: the classes may be those of {names}; choose one, such as yolo:{others[0][0]}"
        )
    if others:
        return _from_yaml(*others[0])
    if (source / "obj.data").is_file():
        return _from_darknet(source / "obj.data")
    for name in _NAMES:
        if (source / name).is_file():
            splits = _conventional_splits(source)
            return Layout(read_lines(source / name), splits, source) if splits else None
    return None


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = read_plain_yaml(path) or {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping with 'names', found a {type(tree).__name__}")
    return tree


def _tree_with_names(path: Path) -> dict[str, Any] | None:
    """Return a YAML file of any name if it lists classes; those of other programs may be there too."""
    if is_hidden(path) or path.name in _USUAL or not path.is_file():
        return None
    try:
        tree = _read_yaml(path)
    except UserError:
        return None
    return tree if "names" in tree else None


def _from_darknet(path: Path) -> Layout | None:
    """Return the layout of a Darknet obj.data (CVAT's "YOLO 1.1"): `names = obj.names`, `train = data/train.txt`."""
    pairs = (line.partition("=") for line in read_lines(path))
    settings = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    if "names" not in settings:
        raise UserError(f"{path}: expected a line such as `names = data/obj.names`")
    lists = {split: [_entry(settings[split], [path.parent], path)] for split in SPLITS if split in settings}
    existing = {split: paths for split, paths in lists.items() if exists(paths[0])}
    names = _entry(settings["names"], [path.parent], path)
    missing = tuple(split for split in lists if split not in existing)
    return Layout(read_lines(names), existing, path.parent, missing=missing)


def _conventional_splits(folder: Path) -> dict[str, list[Path]]:
    for pattern in ("images/{}", "{}/images", "{}"):
        folders = {split: _nested(folder, pattern.format(split)) for split in SPLITS}
        if existing := {split: [path] for split, path in folders.items() if path}:
            return existing
    if lists := {s: [folder / f"{s}.txt"] for s in SPLITS if _is_list_of_images(folder / f"{s}.txt")}:
        return lists
    images = image_subfolder(folder, "images")
    return {ANY: [images]} if images else {}


def _nested(folder: Path, path: str) -> Path | None:
    """Return a folder by its path inside another one, letter case ignored."""
    inner: Path | None = folder
    for name in path.split("/"):
        inner = image_subfolder(inner, name) if inner else None
    return inner


def _is_list_of_images(path: Path) -> bool:
    return is_regular(path) and any(is_image_file(Path(line)) for line in read_lines(path)[:1])


def _from_yaml(path: Path, tree: dict[str, Any]) -> Layout:
    names = _names(path, tree)
    shape = tree.get("kpt_shape")
    sides = [parse_integer(side) for side in shape] if isinstance(shape, list) else []
    keypoints = math.prod(side for side in sides if side is not None) if sides and None not in sides else 0
    entry = tree.get("path", "")
    if not isinstance(entry, str):
        raise UserError(f"{path}: 'path' is {short_repr(entry)}, expected a folder")
    root = path.parent if entry in _NULL else path.parent / entry
    root = root if is_folder(root) else path.parent  # a path of the machine that it was written on
    refuse_images_outside(root, path.parent, path)
    splits: dict[str, list[Path]] = {}
    missing = []
    for split in SPLITS:
        entries = tree.get(split, "")
        entries = entries if isinstance(entries, list) else [entries]
        if not all(isinstance(entry, str) for entry in entries):
            value = short_repr(entries, ROW_LENGTH)
            raise UserError(f"{path}: '{split}' is {value}, expected a folder, a list file, or several")
        paths = [_resolve_yaml_entry(entry, root, path) for entry in entries if entry not in _NULL]
        if any(map(exists, paths)):
            splits[split] = paths
        elif paths:
            missing.append(split)
    if not splits:
        return Layout(names, _conventional_splits(path.parent), root, keypoints)
    return Layout(names, splits, root, keypoints, tuple(missing))


def _names(path: Path, tree: dict[str, Any]) -> list[str]:
    names = tree.get("names")
    if isinstance(names, dict):
        numbered = {parse_integer(key): name for key, name in names.items()}
        if set(numbered) != set(range(len(names))):
            keys = short_repr(list(names), ROW_LENGTH)
            raise UserError(f"{path}: the keys of 'names' must be 0, 1, 2 ...; found {keys}")
        names = [numbered[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path}: 'names' must be a list of names, or a mapping from number to name")
    count = tree.get("nc", len(names))
    if parse_integer(count) != len(names):
        value = short_repr(count)
        raise UserError(f"{path}: 'nc' is {value}, but 'names' has {len(names)} names; correct one of them")
    return names


def _resolve_yaml_entry(entry: str, root: Path, path: Path) -> Path:
    """Return a folder or list file that a data.yaml names. Roboflow writes `../train/images` for `train/images`."""
    entry = entry.replace("\\", "/")  # written on Windows
    candidates = [
        root / entry,
        path.parent / entry,
        path.parent / entry.removeprefix("../"),
        root / entry / "images",
    ]
    existing = [p for p in candidates if exists(p)]
    if not existing:
        return candidates[0]
    resolved = next((p for p in existing if is_inside_dataset(p, root)), existing[0])
    refuse_images_outside(resolved, root, path)
    return resolved


def _entry(entry: str, folders: list[Path], where: Path) -> Path:
    """Return a file that a list names, by its whole path or the end of it: lists are written on other machines, too.

    Raises:
        UserError: the only file of that name is outside of the folders.
    """
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    candidates = [folder / entry for folder in folders]
    candidates += [folder.joinpath(*parts[i:]) for i in range(len(parts)) for folder in folders]
    existing = [path for path in candidates if exists(path)]
    inside = next((p for p in existing if any(is_inside_dataset(p, folder) for folder in folders)), None)
    if inside is None and existing:
        refuse_images_outside(existing[0], folders[0], where)
    return inside or (existing or candidates)[0]


def yolo_images_of(path: Path, layout: Layout, validation: ValidationLog) -> Iterator[Path]:
    """Yield the images of a folder or a list file; report files of a folder that are left out.

    Raises:
        UserError: the path does not exist, or names a file outside of the dataset.
    """
    if is_folder(path):
        contents = scan_folder(path)
        for other, reason in contents.left_out(_BESIDE_IMAGES):
            validation.add("left-out-file", other, reason)
        yield from contents.images
    elif is_regular(path):
        for line in read_lines(path):
            image = _entry(line, [path.parent, layout.root], path)
            if is_hidden(image):
                validation.add("left-out-file", image, HIDDEN)
            else:
                yield image
    else:
        raise UserError(f"{path}: no such folder or list of images")
