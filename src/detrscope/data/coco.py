"""Read COCO JSON in its usual folder layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import read_json as load_json
from detrscope.data.clean import EMPTY, clean_dataset
from detrscope.data.coco_masks import coco_mask_box
from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo
from detrscope.data.image_files import HIDDEN, files_with_suffix, is_folder, is_hidden
from detrscope.data.image_finder import ImageFinder, is_file_name
from detrscope.data.label_studio import is_export
from detrscope.data.parse_values import ROW_LENGTH, parse_boolean, parse_box_xywh, parse_integer, parse_number
from detrscope.data.splits import ANY, canonical_split, find_split
from detrscope.data.validation_log import ValidationLog

LAYOUT = (
    "annotations/instances_SPLIT.json + SPLIT/, SPLIT/_annotations.coco.json, or annotations.json + images/"
)
# The first pattern that matches a file decides. A match of a later one is refused where it is the same split, and
# reported where it is another. Official folders also have captions_*.json and the like.
_PER_SPLIT = (
    "annotations/instances_(?P<split>[^/]+).json",
    "annotations/(?P<split>(?:train|val|valid|test)[^/]*).json",
    r"(?:annotations/)?(?:lvis_v[\d.]+|zhiyuan_objv\d|objects365(?:_v\d)?)_(?P<split>[^/]+).json",
    "(?P<split>[^/]+)/_annotations.coco.json",  # Roboflow
    "(?P<split>[^/]+)/labels.json",  # FiftyOne
    "(?P<split>[^/]+)/annotations.json",
    "(?P<split>train|val|valid|test).json",
)
_SINGLE = ("annotations.json", "_annotations.coco.json", "labels.json", "instances.json", "result.json")


def splits(folder: Path) -> dict[str, Path]:
    """Return the annotation file of each split; empty where the folder is not of a COCO layout.

    A file is its own only split.
    """
    if not is_folder(folder):
        return {ANY: folder}
    return {split: paths[0] for split, paths in _candidates(folder)[0].items()}


def _candidates(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the annotation files that each split may mean, and those of other layouts, which are not read."""
    files = [path for path in files_with_suffix(folder, ".json") if not is_hidden(path)]
    by_name = {path.relative_to(folder).as_posix(): path for path in files}
    splits: dict[str, list[Path]] = {}
    unused: list[Path] = []
    for pattern in _PER_SPLIT:
        regex = re.compile(pattern.replace(".json", r"\.json"), re.IGNORECASE)
        named = [(m["split"], by_name[name]) for name in sorted(by_name) if (m := regex.fullmatch(name))]
        matches = {split: path for split, path in named if not is_export(path)}  # Label Studio's
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
    singles = [by_name[name] for single in _SINGLE for name in by_name if name.casefold() == single]
    singles = [path for path in singles if not is_export(path)]
    if not splits and singles:
        splits = {ANY: singles}
    return splits, list(dict.fromkeys(unused))


def read_split(
    folder: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a folder, or a file.

    Raises:
        UserError: there is no such split, it may mean two files, or as `read_json`.
    """
    if not is_folder(folder):
        return read_json(folder, validation, details=details)
    files, unused = _candidates(folder)
    for path in files_with_suffix(folder, ".json"):
        if is_hidden(path):
            validation.add("left-out-file", path, HIDDEN)
    for path in unused:
        validation.add("unused-file", path, "not read: the folder has annotations of another layout too")
    paths = files[find_split(split, files, str(folder))]
    if len(paths) > 1:
        names = " or ".join(str(path.relative_to(folder)) for path in paths)
        raise UserError(
            f"{folder}: the annotations of '{split}' may be {names}; remove one, or give its path"
        )
    return read_json(paths[0], validation, name=f"{folder.name} {split}", details=details)


def read_json(
    path: Path,
    validation: ValidationLog,
    *,
    name: str | None = None,
    images: Path | None = None,
    details: bool = False,
) -> DetectionDataset:
    """Read an annotation file and find its images around it.

    Args:
        path: Annotation file.
        validation: Log to report to.
        name: Name of the dataset; that of the file by default.
        images: Folder of the images, searched first.
        details: Whether to keep segmentation, licences and other fields, which detection does not use.

    Raises:
        UserError: the file is not COCO's JSON, or a problem stops (see `clean_dataset`).
    """
    tree = load_json(path)
    return read_tree(tree, path, validation, name=name, images=images, details=details)


def read_tree(
    content: Any,
    path: Path,
    validation: ValidationLog,
    *,
    name: str | None = None,
    images: Path | None = None,
    details: bool = False,
) -> DetectionDataset:
    """Read the content of an annotation file; arguments and errors as `read_json`."""
    tree = _checked(content, path, validation)
    _report_text_ids(tree, path, validation)
    classes = _classes(tree["categories"], path)
    find = ImageFinder(path, images, single=path.name in _SINGLE)
    infos = list(_images(tree["images"], find, path, validation, details))
    kept = ("info", "licenses", "categories")
    more: dict[str, Any] = {k: tree[k] for k in kept if k in tree} if details else {}
    return clean_dataset(
        name or path.stem,
        infos,
        _annotations(tree["annotations"], infos, classes, path, validation, details),
        classes,
        validation,
        source=path,
        details=more,
    )


def _checked(tree: Any, path: Path, validation: ValidationLog) -> dict[str, Any]:
    if not isinstance(tree, dict):
        what = "a results file?" if isinstance(tree, list) else type(tree).__name__
        raise UserError(
            f"{path}: expected a COCO dictionary of images, annotations, categories; found {what}"
        )
    if "shapes" in tree and "images" not in tree:
        raise UserError(f"{path}: LabelMe's file of one image; give its folder: labelme:{path.parent}")
    if "annotations" not in tree:
        test_list = path.stem.startswith(("image_info", "test", "instances_test"))
        if not test_list and canonical_split(validation.split) != "test":  # lists of test images have none
            validation.add("no-labels", path, "no 'annotations'")
        tree["annotations"] = []
    for key in ("images", "annotations", "categories"):
        rows = tree.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: '{key}' must be a list of dictionaries, as COCO writes it")
    return tree


def _report_text_ids(tree: dict[str, Any], path: Path, validation: ValidationLog) -> None:
    """Report ids that are written as text: they are read as numbers."""
    for key in ("images", "annotations", "categories"):
        texts = [row["id"] for row in tree[key] if isinstance(row.get("id"), str)]
        if texts:
            reason = f"{len(texts)} ids of {key} are written as text, such as {short_repr(texts[0], 40)}"
            validation.add("text-ids", path, reason)


def _classes(rows: list[dict[str, Any]], path: Path) -> ClassTable:
    table: dict[int, str] = {}
    for row in rows:
        category = parse_integer(row.get("id"))
        if category is None or not isinstance(row.get("name"), str | int | float):
            row_text = short_repr(row, ROW_LENGTH)
            raise UserError(f"{path}: category {row_text}: expected an integer 'id' of 64 bits and a 'name'")
        if category in table:
            raise UserError(f"{path}: category id {category} is declared twice")
        table[category] = str(row["name"])
    return ClassTable(tuple(table), tuple(table.values()))


def _images(
    rows: list[dict[str, Any]], find: ImageFinder, path: Path, validation: ValidationLog, details: bool
) -> Iterator[ImageInfo]:
    names = [_file_name(row) for row in rows]
    find.expect(name for name in names if name is not None)
    for row, name in zip(rows, names, strict=True):
        image_id = parse_integer(row.get("id"))
        if image_id is None or name is None:
            keys = short_repr({k: row.get(k) for k in ("id", "file_name")}, ROW_LENGTH)
            reason = f"image {keys}: expected an integer 'id' of 64 bits and a 'file_name'"
            validation.add("bad-id", path, reason)
            continue
        sides = []
        for key in ("width", "height"):
            side = parse_integer(row.get(key))
            if row.get(key) is not None and (side is None or side < 0):
                reason = f"image id {image_id}: {key} is {short_repr(row[key])}, expected pixels"
                validation.add("bad-value", path, reason)
            sides.append(max(0, side or 0))
        known = ("id", "file_name", "width", "height")
        more = {k: v for k, v in row.items() if k not in known} if details else {}
        yield ImageInfo(image_id, find(name), sides[0], sides[1], more)


def _file_name(row: dict[str, Any]) -> str | None:
    """Return the file name of an image; LVIS has only its URL, whose last two parts are its path in COCO."""
    name = row.get("file_name")
    if name is None and isinstance(row.get("coco_url"), str):
        name = "/".join(row["coco_url"].split("/")[-2:])
    return name if isinstance(name, str) and is_file_name(name) else None


def _annotations(
    rows: list[dict[str, Any]],
    images: list[ImageInfo],
    classes: ClassTable,
    path: Path,
    validation: ValidationLog,
    details: bool,
) -> Iterator[Annotation]:
    paths = {image.id: image.path for image in images}
    names = dict(zip(classes.ids, classes.names, strict=True))
    for position, row in enumerate(rows, start=1):
        own, image = parse_integer(row.get("id")), parse_integer(row.get("image_id"))
        category = parse_integer(row.get("category_id"))
        if "id" not in row:
            own = position
        if own is None or image is None or category is None:
            keys = short_repr({k: row.get(k) for k in ("id", "image_id", "category_id")}, ROW_LENGTH)
            validation.add("bad-id", path, f"annotation {keys}: expected integers of 64 bits")
            continue
        crowd = parse_boolean(row.get("iscrowd"))
        if crowd is None:
            reason = f"iscrowd is {short_repr(row['iscrowd'])}, expected 0 or 1"
            validation.add("bad-value", path, reason, own)
            continue
        area = parse_number(row.get("area"))
        # NaN counts as no area, which is derived from the box.
        if area is None and not isinstance(row.get("area"), float | None):
            reason = f"area is {short_repr(row['area'])}, expected a number of pixels"
            validation.add("bad-value", path, reason, own)
            continue
        segmentation, declared = row.get("segmentation"), row.get("bbox")
        if (declared is None or declared == []) and segmentation:
            declared = coco_mask_box(segmentation)
        box = parse_box_xywh(declared)
        # Of an undeclared image or category `clean_dataset` reports that.
        if box is None and image in paths and category in names:
            reason = f"the box is {short_repr(declared)}, not four finite numbers"
            validation.add("bad-box", paths[image], reason, own, names[category])
            continue
        mask = segmentation if details else None
        yield Annotation(own, image, category, box or EMPTY, math.nan if area is None else area, crowd, mask)
