"""Read Label Studio's JSON export: a list of tasks, each one image with the annotations of several people.

No kept library reads it: Label Studio's own converter writes an image once per annotator, takes turned rectangles for
upright ones in YOLO, and leaves out regions without a label in silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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


@dataclass(frozen=True)
class _Task:
    """One task: an image and its objects."""

    name: str  # of the image's file
    size: tuple[int, int] = (0, 0)  # width and height as declared; 0 where they are not
    shapes: list[Shape] | None = None  # None where nobody has labelled it


def splits(source: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each split, or of `*`; empty where there is no export.

    Raises:
        UserError: several exports in a folder are not named as splits.
    """
    if not is_folder(source):
        return {ANY: (source,)}
    found = files_with_suffix(source, ".json")
    files = [path for path in found if not is_hidden(path) and is_export(path)]
    names = {path: path.stem if path.parent == source else path.parent.name for path in files}
    if files and all(canonical_split(name) in ("train", "val", "test") for name in names.values()):
        found_splits = dict.fromkeys(names.values())
        return {split: tuple(p for p in files if names[p] == split) for split in found_splits}
    if len(files) > 1:
        shown = " or ".join(str(path.relative_to(source)) for path in files[:4])
        raise UserError(
            f"{source}: the export may be {shown}; name them train, val, test, or give the path of one"
        )
    return {ANY: tuple(files)} if files else {}


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
    updated last; cancelled ones never. A task that nobody has labelled is left out, one whose annotation is empty is an
    image without objects. Category ids count from 1, names of all splits in alphabetical order. Image and annotation
    ids count from 1, in the order of the tasks, files in order of their names.

    Raises:
        UserError: there is no such split, or a task cannot be read.
    """
    files = splits(source)
    wanted = files[find_split(split, files, str(source))]
    quiet = ValidationLog(split, strict=False)  # other splits are reported when they are read themselves
    every = [path for paths in files.values() for path in paths]
    tasks = {path: list(_tasks(path, validation if path in wanted else quiet)) for path in every}
    images = []
    for path in wanted:
        find = ImageFinder(path, None, single=True)
        find.expect(task.name for other in wanted for task in tasks[other])
        near = {
            task.name
            for other in every
            for task in tasks[other]
            if other in wanted or other.parent == path.parent
        }
        uploads = Counter(map(_original_name, near))
        for task in tasks[path]:
            if task.shapes is not None:
                file = _image(find, task.name, uploads)
                images.append(LabelledImage(file, path, *task.size, task.shapes))
    used = {shape.label for rows in tasks.values() for task in rows for shape in task.shapes or ()}
    name = f"{source.stem} {split}"
    where = wanted[0] if len(wanted) == 1 else source
    return to_dataset(name, images, numbered_classes([], used), validation, source=where, details=details)


def _tasks(path: Path, validation: ValidationLog) -> Iterator[_Task]:
    """Yield each task whose image has a name; report what cannot be read."""
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
        if result is None:
            reason = f"{place} ({name[:100]}): no annotation with a result, so that nobody has labelled it"
            validation.add("unlabelled-task", path, reason)
            yield _Task(name)
            continue
        if not isinstance(result, list):
            reason = (
                f"{place} ({name[:100]}): expected a list 'result', found {short_repr(result, ROW_LENGTH)}"
            )
            validation.add("bad-label", path, reason)
            yield _Task(name)
            continue
        yield _Task(name, *region_shapes(path, f"{place}: ", result, validation))


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
    if url.scheme in ("http", "https", "s3", "gs", "azure-blob"):
        path = url.path
    else:
        before = value.partition("?")[0]  # of /data/upload/1/a.jpg?token=1; not of why?.jpg
        path = before if is_image_file(Path(before)) else value
    name = local if is_image_file(Path(local)) else path
    return name if is_file_name(name) else None


def _original_name(name: str) -> str:
    """Return the last part of a name as it was before the upload, which puts eight digits in front."""
    last = unquote(name.replace("\\", "/").rsplit("/", 1)[-1])
    upload = _UPLOAD.fullmatch(last)
    return upload["name"] if upload else last


def _image(find: ImageFinder, name: str, uploads: Counter[str]) -> Path:
    """Return the file of an image, by its name in the export, else by the one before it was uploaded.

    Args:
        find: Search around the export.
        name: Name in the export.
        uploads: How many images had each name before they were uploaded: of two, none can be told by it.
    """
    path = find(name)
    original = _original_name(name)
    uploaded = _UPLOAD.fullmatch(unquote(path.name)) is not None and is_file_name(original)
    if exists(path) or not uploaded or uploads[original] > 1:
        return path
    before = find(original)
    return before if exists(before) else path
