"""COCO's JSON, in the folder layouts that it is found in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.text_files import read_json as load_json
from detrscope.data.clean import RawBox, RawImage, clean_dataset
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import is_hidden
from detrscope.data.image_finder import ImageFinder
from detrscope.data.parse_values import boolean, integer, number, shown
from detrscope.data.segmentation import mask_box
from detrscope.data.splits import ANY, canonical_split, find_split
from detrscope.data.validation_log import ValidationLog

LAYOUT = (
    "annotations/instances_SPLIT.json + SPLIT/, SPLIT/_annotations.coco.json, or annotations.json + images/"
)
# The first line of these that matches something decides; what later ones match is refused where it is the same split,
# and reported where it is another. Official folders also have captions_*.json and the like.
_PER_SPLIT = (
    "annotations/instances_(?P<split>[^/]+).json",
    "annotations/(?P<split>(?:train|val|valid|test)[^/]*).json",
    r"annotations/lvis_v[\d.]+_(?P<split>[^/]+).json",
    "(?P<split>[^/]+)/_annotations.coco.json",  # Roboflow
    "(?P<split>[^/]+)/labels.json",  # FiftyOne
    "(?P<split>[^/]+)/annotations.json",
    "(?P<split>train|val|valid|test).json",
)
_SINGLE = ("annotations.json", "_annotations.coco.json", "labels.json", "instances.json", "result.json")


def splits(folder: Path) -> dict[str, Path]:
    """The annotation file of each split; empty where the folder is not of a COCO layout."""
    return {split: paths[0] for split, paths in _candidates(folder)[0].items()}


def _candidates(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """The annotation files that may be meant by each split, and those of other layouts that are not read."""
    files = [p for pattern in ("*", "*/*") for p in folder.glob(pattern)]
    files = [p for p in files if p.suffix.casefold() == ".json" and not is_hidden(p)]
    found = {p.relative_to(folder).as_posix(): p for p in files if not is_hidden(p.parent)}
    splits: dict[str, list[Path]] = {}
    unused: list[Path] = []
    for pattern in _PER_SPLIT:
        regex = re.compile(pattern.replace(".json", r"\.json"), re.IGNORECASE)
        matches = {m["split"]: found[name] for name in sorted(found) if (m := regex.fullmatch(name))}
        taken = [path for paths in splits.values() for path in paths]
        if not splits:
            splits = {split: [path] for split, path in matches.items()}
            continue
        for split, path in matches.items():
            if path in taken:
                continue
            if split in splits:
                splits[split].append(path)
            else:
                unused.append(path)
    singles = [found[name] for name in sorted(found, key=_single_rank) if name.casefold() in _SINGLE]
    if not splits and singles:
        splits = {ANY: singles}
    return splits, list(dict.fromkeys(unused))


def _single_rank(name: str) -> int:
    return _SINGLE.index(name.casefold()) if name.casefold() in _SINGLE else len(_SINGLE)


def read_split(folder: Path, split: str, problems: ValidationLog, details: bool = False) -> DetectionDataset:
    """One split of a folder.

    Raises:
        UserError: no such split, two files may be meant by it, or see `read_json`.
    """
    files, unused = _candidates(folder)
    for path in sorted({*folder.glob("*.json"), *folder.glob("*/*.json")}):
        if is_hidden(path):
            problems.add("left-out-file", path, "hidden, or the system's")
    for path in unused:
        problems.add("unused-file", path, "not read: the folder has annotations of another layout too")
    name = find_split(split, files, str(folder))
    path, *others = files[name]
    if others:
        named = " or ".join(str(p.relative_to(folder)) for p in (path, *others))
        raise UserError(
            f"{folder}: the annotations of '{split}' may be {named}; remove one, or give its path"
        )
    return read_json(path, problems, name=f"{folder.name} {split}", details=details)


def read_json(
    path: Path,
    problems: ValidationLog,
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
        UserError: the file is not COCO's JSON, or something stops (see `clean_dataset`).
    """
    tree = _load(path, problems)
    _report_text_ids(tree, path, problems)
    classes = _classes(tree["categories"], path)
    find = ImageFinder(path, images, single=path.name in _SINGLE)
    more: dict[str, Any] = {k: tree[k] for k in ("info", "licenses") if k in tree} if details else {}
    return clean_dataset(
        name or path.stem,
        _images(tree["images"], find, path, problems, details),
        _boxes(tree["annotations"], path, problems, details),
        classes,
        problems,
        source=path,
        details=more,
    )


def _load(path: Path, problems: ValidationLog) -> dict[str, Any]:
    tree = load_json(path)
    if not isinstance(tree, dict):
        what = "a results file?" if isinstance(tree, list) else type(tree).__name__
        raise UserError(
            f"{path}: expected COCO's dictionary of images, annotations, categories; found {what}"
        )
    if "annotations" not in tree:
        of_test = canonical_split(problems.split) == "test" or path.stem.startswith(
            ("image_info", "test", "instances_test")
        )
        if not of_test:  # the lists of test images have none
            problems.add("no-labels", path, "no 'annotations'")
        tree["annotations"] = []
    for key in ("images", "annotations", "categories"):
        rows = tree.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: '{key}' must be a list of dictionaries, as COCO writes it")
    return tree


def _report_text_ids(tree: dict[str, Any], path: Path, problems: ValidationLog) -> None:
    """Say when ids are texts: they come out as numbers."""
    for key in ("images", "annotations", "categories"):
        texts = [row["id"] for row in tree[key] if isinstance(row.get("id"), str)]
        if texts:
            reason = f"{len(texts)} ids of {key} are written as text, such as {shown(texts[0], 40)}"
            problems.add("text-ids", path, reason)


def _classes(rows: list[dict[str, Any]], path: Path) -> ClassTable:
    table: dict[int, str] = {}
    for row in rows:
        category = integer(row.get("id"))
        if category is None or not isinstance(row.get("name"), str | int | float):
            raise UserError(
                f"{path}: category {shown(row)}: expected an integer 'id' of 64 bits and a 'name'"
            )
        if category in table:
            raise UserError(f"{path}: category id {category} is declared twice")
        table[category] = str(row["name"])
    return ClassTable(tuple(table), tuple(table.values()))


def _images(
    rows: list[dict[str, Any]], find: ImageFinder, path: Path, problems: ValidationLog, details: bool
) -> Iterator[RawImage]:
    names = [_file_name(row) for row in rows]
    find.expect(name for name in names if name is not None)
    for row, name in zip(rows, names, strict=True):
        image_id = integer(row.get("id"))
        if image_id is None or name is None:
            keys = {k: row.get(k) for k in ("id", "file_name")}
            problems.add(
                "bad-id", path, f"image {shown(keys)}: expected an integer 'id' of 64 bits and a 'file_name'"
            )
            continue
        sides = []
        for key in ("width", "height"):
            side = integer(row.get(key))
            if row.get(key) is not None and (side is None or side < 0):
                problems.add(
                    "bad-value", path, f"image id {image_id}: {key} is {shown(row[key])}, not pixels"
                )
            sides.append(side if side is not None and side >= 1 else None)
        known = ("id", "file_name", "width", "height")
        more = {k: v for k, v in row.items() if k not in known} if details else {}
        yield RawImage(image_id, find(name), sides[0], sides[1], more)


def _file_name(row: dict[str, Any]) -> str | None:
    """The name of an image's file; LVIS tells only its URL, whose last two parts are its place in COCO."""
    name = row.get("file_name")
    if name is None and isinstance(row.get("coco_url"), str):
        name = "/".join(row["coco_url"].split("/")[-2:])
    valid = isinstance(name, str) and name.strip("./\\") and "\0" not in name and len(name) < 4096
    return name if isinstance(name, str) and valid else None


def _boxes(
    rows: list[dict[str, Any]], path: Path, problems: ValidationLog, details: bool
) -> Iterator[RawBox]:
    for position, row in enumerate(rows, start=1):
        own, image, category = (integer(row.get(k)) for k in ("id", "image_id", "category_id"))
        if "id" not in row:
            own = position
        if own is None or image is None or category is None:
            keys = {k: row.get(k) for k in ("id", "image_id", "category_id")}
            problems.add("bad-id", path, f"annotation {shown(keys)}: expected integers of 64 bits")
            continue
        crowd = boolean(row.get("iscrowd"))
        if crowd is None:
            problems.add("bad-value", path, f"iscrowd is {shown(row['iscrowd'])}, expected 0 or 1", own)
            continue
        area = number(row.get("area"))
        if area is None and not isinstance(row.get("area"), float | None):  # NaN is no area, which is derived
            problems.add("bad-value", path, f"area is {shown(row['area'])}, expected a number of pixels", own)
            continue
        segmentation = row.get("segmentation")
        box = row.get("bbox")
        if (box is None or box == []) and segmentation:
            box = polygon_box(segmentation)
        yield RawBox(own, image, category, box, area, crowd, segmentation if details else None)


def polygon_box(mask: Any) -> list[float] | None:
    """[x, y, width, height] around polygons [[x1, y1, x2, y2, ...], ...] or run lengths; None for anything else."""
    try:
        if isinstance(mask, dict):
            height, width = mask["size"]
            return mask_box(mask, height, width)
        points = [[number(v) for v in polygon] for polygon in mask]
        xs, ys = ([v for p in points for v in p[start::2] if v is not None] for start in (0, 1))
        if sum(map(len, points)) > len(xs) + len(ys):
            return None
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (TypeError, ValueError, KeyError):
        return None
