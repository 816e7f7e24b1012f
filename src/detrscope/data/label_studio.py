"""Read Label Studio's JSON export: a list of tasks, each one image with the annotations of several people.

No kept library reads it: Label Studio's own converter writes an image once per annotator, takes turned rectangles for
upright ones in YOLO, and leaves out regions without a label in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import read_json
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import exists, files_with_suffix, is_folder, is_hidden, is_image_file
from detrscope.data.image_finder import ImageFinder, is_file_name
from detrscope.data.label_studio_regions import region_shapes, used_annotation
from detrscope.data.labelled_images import LabelledImage, numbered_classes, to_dataset
from detrscope.data.parse_values import ROW_LENGTH
from detrscope.data.shapes import Shape
from detrscope.data.splits import ANY, canonical_split, find_split
from detrscope.data.validation_log import ValidationLog

LAYOUT = "one .json of Label Studio (JSON, not JSON-MIN) beside the images, or with images/; or SPLIT.json"
_BEGINNING = 256  # bytes in which the list begins
_HEAD = 1 << 16  # bytes in which a key of the first task begins
_LIST = re.compile(rb"\s*\[\s*\{")
_KEYS = re.compile(rb'"(annotations|completions|file_upload|rectanglelabels|polygonlabels)"\s*:')
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?P<name>.+)")  # Label Studio's prefix of uploaded files


def splits(source: Path) -> dict[str, Path]:
    """Return the file of each split, or of `*`; empty where there is no export.

    Raises:
        UserError: several exports in a folder are not named as splits.
    """
    if not is_folder(source):
        return {ANY: source}
    found = files_with_suffix(source, ".json")
    files = [path for path in found if not is_hidden(path) and is_export(path)]
    names = {path: path.stem if path.parent == source else path.parent.name for path in files}
    if files and all(canonical_split(name) in ("train", "val", "test") for name in names.values()):
        return {name: path for path, name in names.items()}
    if len(files) > 1:
        shown = " or ".join(str(path.relative_to(source)) for path in files[:4])
        raise UserError(
            f"{source}: the export may be {shown}; name them train, val, test, or give the path of one"
        )
    return {ANY: files[0]} if files else {}


def is_export(path: Path) -> bool:
    """Return whether a file begins as Label Studio's do."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_BEGINNING)
            if not _LIST.match(head.removeprefix(b"\xef\xbb\xbf")):
                return False  # by far the most
            head += file.read(_HEAD)
    except (OSError, ValueError):
        return False
    return _KEYS.search(head) is not None


def read_split(
    source: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a folder, or a file.

    Rectangles, polygons and ellipses become boxes, turned ones the upright box around them; a region with several
    labels is one object of each. Of several annotations of a task the ground truth is taken, else the one that was
    updated last; cancelled ones never. Category ids count from 1, names of all splits in alphabetical order. Image and
    annotation ids count from 1, in the order of the tasks.

    Raises:
        UserError: there is no such split, or a task cannot be read.
    """
    files = splits(source)
    path = files[find_split(split, files, str(source))]
    tasks = list(_tasks(path, validation))
    find = ImageFinder(path, None, single=True)
    find.expect(name for name, _, _ in tasks)
    images = [LabelledImage(_image(find, name), path, *size, shapes) for name, size, shapes in tasks]
    used = {shape.label for _, _, shapes in tasks for shape in shapes}
    for other in files.values():
        if other != path:
            quiet = ValidationLog(split, strict=False)
            used |= {shape.label for _, _, shapes in _tasks(other, quiet) for shape in shapes}
    name = f"{source.stem} {split}"
    return to_dataset(name, images, numbered_classes([], used), validation, source=path, details=details)


def _tasks(path: Path, validation: ValidationLog) -> Iterator[tuple[str, tuple[int, int], list[Shape]]]:
    """Yield the file name, declared size and objects of each task; report what cannot be read."""
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise UserError(f"{path}: expected Label Studio's list of tasks; found {short_repr(tasks, 40)}")
    for position, task in enumerate(tasks):
        place = f"task {position}"
        annotations = task.get("annotations", task.get("completions")) if isinstance(task, dict) else None
        if not isinstance(annotations, list):
            row = short_repr(task, ROW_LENGTH)
            reason = f"{place}: expected a list 'annotations' (export as JSON, not as JSON-MIN), found {row}"
            validation.add("bad-label", path, reason)
            continue
        name = _file_name(task)
        if name is None:
            data = short_repr(task.get("data"), ROW_LENGTH)
            validation.add("bad-label", path, f"{place}: no image is named in 'data', found {data}")
            continue
        result, left_out = used_annotation(annotations)
        for reason in left_out:
            validation.add("unused-annotation", path, f"{place} ({name[:100]}): {reason}")
        size, shapes = region_shapes(path, f"{place}: ", result, validation)
        yield name, size, shapes


def _file_name(task: dict[str, Any]) -> str | None:
    """Return the name of the image of a task: of `data` the value that names one, else that of the upload."""
    data = task.get("data")
    values = list(data.values()) if isinstance(data, dict) else []
    if isinstance(data, dict) and "image" in data:
        values.insert(0, data["image"])
    names = [
        name for value in [*values, task.get("file_upload")] if (name := _name_in_url(value)) is not None
    ]
    return next((name for name in names if is_image_file(Path(name))), None)


def _name_in_url(value: object) -> str | None:
    """Return the path in /data/upload/1/a.jpg, /data/local-files/?d=b/a.jpg, s3://bucket/b/a.jpg, https://host/a.jpg."""
    if not isinstance(value, str) or not is_file_name(value):
        return None
    try:
        url = urlsplit(value)
        local = parse_qs(url.query).get("d", [""])[0]
    except ValueError:  # http://[
        return value
    name = local or (url.path if url.scheme in ("http", "https", "s3", "gs", "azure-blob") else value)
    return name if is_file_name(name) else None


def _image(find: ImageFinder, name: str) -> Path:
    """Return the file of an image, by its name in the export or the one that it had before it was uploaded."""
    path = find(name)
    if exists(path):
        return path
    upload = _UPLOAD.fullmatch(path.name)
    original = find(upload["name"]) if upload and is_file_name(upload["name"]) else path
    return original if exists(original) else path
