"""COCO's JSON, in the folder layouts that it is found in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.assemble import RawBox, RawImage, assemble
from detrscope.data.dataset import DetectionDataset
from detrscope.data.problems import Problems
from detrscope.data.splits import ANY, find_split, plain

LAYOUT = (
    "annotations/instances_SPLIT.json + SPLIT/, SPLIT/_annotations.coco.json, or annotations.json + images/"
)
# The first line of these that matches something decides. Official folders also have captions_*.json and the
# like.
_PER_SPLIT = (
    "annotations/instances_(?P<split>[^/]+).json",
    "annotations/(?P<split>train|val|valid|test)[^/]*.json",
    "(?P<split>[^/]+)/_annotations.coco.json",  # Roboflow
    "(?P<split>[^/]+)/labels.json",  # FiftyOne
    "(?P<split>[^/]+)/annotations.json",
    "(?P<split>train|val|valid|test).json",
)
_SINGLE = ("annotations.json", "_annotations.coco.json", "labels.json", "instances.json")


def splits(folder: Path) -> dict[str, Path]:
    """The annotation file of each split; empty where the folder is not of a COCO layout."""
    found = {p.relative_to(folder).as_posix(): p for p in [*folder.glob("*.json"), *folder.glob("*/*.json")]}
    for pattern in _PER_SPLIT:
        regex = re.compile(pattern.replace(".json", r"\.json"))
        matches = {m["split"]: found[name] for name in sorted(found) if (m := regex.fullmatch(name))}
        if matches:
            return matches
    single = next((found[name] for name in _SINGLE if name in found), None)
    return {ANY: single} if single else {}


def read_split(folder: Path, split: str, problems: Problems, details: bool = False) -> DetectionDataset:
    """One split of a folder.

    Raises:
        UserError: no such split, or see `read_json`.
    """
    files = splits(folder)
    name = find_split(split, files, str(folder))
    return read_json(files[name], problems, name=f"{folder.name} {split}", details=details)


def read_json(
    path: Path,
    problems: Problems,
    *,
    name: str | None = None,
    images: Path | None = None,
    details: bool = False,
) -> DetectionDataset:
    """An annotation file with its images, which are looked for beside it.

    Args:
        path: the JSON.
        problems: where to report.
        name: of the dataset; the file's own by default.
        images: the folder of the images, looked into first.
        details: keep segmentation, licences and the other fields of images, which detection does not use.

    Raises:
        UserError: the file is not COCO's JSON, or something stops (see `assemble`).
    """
    tree = _load(path)
    classes = _classes(tree["categories"], path)
    find = _Finder(path, images)
    more: dict[str, Any] = {k: tree[k] for k in ("info", "licenses") if k in tree} if details else {}
    return assemble(
        name or path.stem,
        _images(tree["images"], find, path, problems, details),
        _boxes(tree["annotations"], path, problems, details),
        classes,
        problems,
        source=path,
        details=more,
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(tree, dict):
        what = "a results file?" if isinstance(tree, list) else type(tree).__name__
        raise UserError(
            f"{path}: expected COCO's dictionary of images, annotations, categories; found {what}"
        )
    tree.setdefault("annotations", [])  # as in the lists of test images
    for key in ("images", "annotations", "categories"):
        rows = tree.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: '{key}' must be a list of dictionaries, as COCO writes it")
    return tree


def _classes(rows: list[dict[str, Any]], path: Path) -> ClassTable:
    ids = [_integer(row.get("id")) for row in rows]
    for row, category in zip(rows, ids, strict=True):
        if category is None or "name" not in row:
            raise UserError(f"{path}: category {row}: expected an integer 'id' and a 'name'")
        if ids.count(category) > 1:
            raise UserError(f"{path}: category id {category} is declared twice")
    return ClassTable(tuple(i for i in ids if i is not None), tuple(str(row["name"]) for row in rows))


def _images(
    rows: list[dict[str, Any]], find: _Finder, path: Path, problems: Problems, details: bool
) -> Iterator[RawImage]:
    for row in rows:
        image_id = _integer(row.get("id"))
        if image_id is None or not isinstance(row.get("file_name"), str):
            shown = {k: row.get(k) for k in ("id", "file_name")}
            problems.add("bad-id", path, f"image {shown}: expected an integer 'id' and a 'file_name'")
            continue
        more = (
            {k: v for k, v in row.items() if k not in ("id", "file_name", "width", "height")}
            if details
            else {}
        )
        yield RawImage(
            image_id, find(row["file_name"]), _integer(row.get("width")), _integer(row.get("height")), more
        )


def _boxes(rows: list[dict[str, Any]], path: Path, problems: Problems, details: bool) -> Iterator[RawBox]:
    for number, row in enumerate(rows, start=1):
        own, image, category = (_integer(row.get(k)) for k in ("id", "image_id", "category_id"))
        if "id" not in row:
            own = number
        if own is None or image is None or category is None:
            shown = {k: row.get(k) for k in ("id", "image_id", "category_id")}
            problems.add("bad-id", path, f"annotation {shown}: expected integers")
            continue
        segmentation = row.get("segmentation")
        box = row["bbox"] if "bbox" in row else polygon_box(segmentation)
        yield RawBox(
            own,
            image,
            category,
            box,
            row.get("area"),
            bool(row.get("iscrowd")),
            segmentation if details else None,
        )


def polygon_box(polygons: Any) -> list[float] | None:
    """[x, y, width, height] around polygons [[x1, y1, x2, y2, ...], ...]; None where they are no polygons."""
    try:
        xs = [float(x) for polygon in polygons for x in polygon[::2]]
        ys = [float(y) for polygon in polygons for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (TypeError, ValueError):
        return None


def _integer(value: Any) -> int | None:
    """An integer, also where it was written as 7.0 or "7"; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isdecimal() else None


class _Finder:
    """Finds image files around an annotation file; the folder that had the last one is tried first."""

    def __init__(self, path: Path, images: Path | None) -> None:
        base = path.parent.parent if path.parent.name == "annotations" else path.parent
        split = path.stem.removeprefix("instances_")
        if base == path.parent and path.name in (Path(p).name for p in _SINGLE):
            base, split = path.parent.parent, path.parent.name
        parents = [*([images] if images else []), base, base / "images", path.parent, path.parent / "images"]
        named = [d for parent in parents if parent.is_dir() for d in sorted(parent.iterdir()) if d.is_dir()]
        # train2017/ for train2017, then any other folder that means train; then folders without a split's
        # name.
        exact = [d for d in named if d.name == split]
        meant = [d for d in named if plain(d.name) == plain(split)]
        inside = [d / sub for d in [*exact, *meant] for sub in ("", "images", "data")]
        shared = [path.parent / sub for sub in ("images", "data", "")] + [
            base / "images",
            base / "data",
            base,
        ]
        folders = [*inside, *([images] if images else []), *shared]
        self.folders = [f for f in dict.fromkeys(folders) if f.is_dir()]

    def __call__(self, file_name: str) -> Path:
        name = file_name.replace("\\", "/")
        for index, folder in enumerate(self.folders):
            for path in dict.fromkeys([folder / name, folder / name.rsplit("/", 1)[-1]]):
                if path.is_file():
                    self.folders.insert(0, self.folders.pop(index))
                    return path
        return self.folders[0] / name  # missing; the folder of the annotations always exists
