"""Read "CVAT for images 1.1": XML of many images, with boxes, polygons, ellipses and masks.

supervision has no reader of it, and datumaro is not kept with numpy 2: so it is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from hotcoco import mask as rle

from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import files_with_suffix, is_folder, is_hidden
from detrscope.data.image_finder import ImageFinder, is_file_name
from detrscope.data.image_header import max_image_pixels
from detrscope.data.labelled_images import LabelledImage, numbered_classes, to_dataset
from detrscope.data.parse_values import parse_integer, parse_number
from detrscope.data.shapes import Shape, ellipse, polygon, turned_rectangle
from detrscope.data.splits import ANY, canonical_split, find_split
from detrscope.data.validation_log import ValidationLog
from detrscope.data.xml_files import read_xml, root_tag

LAYOUT = 'annotations.xml of "CVAT for images 1.1" + images/; or SPLIT/*.xml'
NO_SUBSET = "default"  # CVAT's name of the subset of images without one
# Types of shapes and tags that enclose nothing, or not in the plane of the image.
_NO_AREA = frozenset({"polyline", "points", "cuboid", "skeleton", "tag"})


def splits(source: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each split, or of `*`; empty where there is no file of CVAT.

    Splits are the subsets of a CVAT project, else folders or files named train, val or test; beside these, files of
    other names belong to none.
    """
    files = _files(source)
    pages = {path: images for path in files if (images := _images(path)) is not None}
    found = {split: tuple(members) for split, members in _by_split(source, pages).items()}
    return found or ({ANY: tuple(files)} if files else {})  # `read_split` says why none can be read


def read_split(
    source: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a file or a folder.

    Boxes, polygons, ellipses and masks become boxes, turned ones the upright box around them; polylines, points,
    cuboids, skeletons and tags are left out. Category ids count from 1: the labels in the order of the XML's own list,
    of files in order of their names; then other names alphabetically. Files of no split are reported and count for
    neither. Image and annotation ids count from 1.

    Raises:
        UserError: there is no such split, or a file cannot be read.
    """
    pages: dict[Path, list[Element]] = {}
    empty: list[Path] = []
    roots: dict[Path, Element] = {}
    for path in _files(source):
        try:
            root = read_xml(path)
        except UserError as error:
            validation.add("bad-label", path, str(error).removeprefix(f"{path}: "))
            continue
        roots[path], pages[path] = root, _images_of(root)
        if root.find("track") is not None and not pages[path]:
            reason = 'tracks of "CVAT for video"; export it as "CVAT for images 1.1"'
            validation.add("bad-label", path, reason)
        elif not pages[path]:
            empty.append(path)
    for path in empty:
        # One of several may be of a task without images; alone it is another format.
        kind = "unused-file" if any(pages.values()) else "bad-label"
        validation.add(kind, path, f"not CVAT for images: {_contents(roots[path])}")
    by_split = _by_split(source, pages) or {ANY: {}}
    read = {path for members in by_split.values() for path in members}
    for path in (path for path, rows in pages.items() if rows and path not in read):
        validation.add("unused-file", path, f"in none of the splits {', '.join(by_split)}")
    declared = [name for path, root in roots.items() if path in read for name in _declared(root)]
    members = by_split[find_split(split, by_split, str(source))]
    images = [image for path, rows in members.items() for image in _labelled(path, rows, validation, details)]
    used = (
        (item.get("label") or "").strip()
        for path in read
        for row in pages[path]
        for item in row
        if item.tag in _READERS
    )
    classes = numbered_classes(declared, filter(None, used))
    name = f"{source.stem} {split}"
    return to_dataset(name, images, classes, validation, source=source, details=details)


def _files(source: Path) -> list[Path]:
    if not is_folder(source):
        return [source]
    found = (path for path in files_with_suffix(source, ".xml") if not is_hidden(path))
    return [path for path in found if root_tag(path) == "annotations"]


def _images(path: Path) -> list[Element] | None:
    try:
        return _images_of(read_xml(path))
    except UserError:
        return None


def _images_of(root: Element) -> list[Element]:
    return root.findall("image") if root.tag == "annotations" else []


def _contents(root: Element) -> str:
    """Return what a file without images has, in words."""
    if root.tag == "annotation":
        return "the root is <annotation>, as in VOC's files of one image; give their folder: voc:DIR"
    if root.tag != "annotations":
        return f"the root is <{root.tag[:40]}>, expected <annotations>"
    return "neither <image> nor <track> in it"


def _by_split(source: Path, pages: dict[Path, list[Element]]) -> dict[str, dict[Path, list[Element]]]:
    """Return the images of each split by file."""
    found: dict[str, dict[Path, list[Element]]] = {}
    if any(image.get("subset") for images in pages.values() for image in images):
        for path, images in pages.items():
            for image in images:
                subset = image.get("subset") or NO_SUBSET
                found.setdefault(subset, {}).setdefault(path, []).append(image)
        return found
    names = {path: path.parent.name if path.parent != source else path.stem for path in pages}
    named = {path for path, name in names.items() if canonical_split(name) in ("train", "val", "test")}
    if not is_folder(source):
        named.clear()
    for path, images in pages.items():
        if path in named or not named:
            found.setdefault(names[path] if named else ANY, {})[path] = images
    return found


def _declared(root: Element) -> Iterator[str]:
    """Yield the labels that the file lists, but for those of shapes without an area and of parts of skeletons."""
    for label in root.iterfind("meta//labels/label"):
        name = (label.findtext("name") or "").strip()
        if name and label.find("parent") is None and (label.findtext("type") or "").strip() not in _NO_AREA:
            yield name


def _labelled(
    path: Path, rows: list[Element], validation: ValidationLog, details: bool
) -> Iterator[LabelledImage]:
    finders: dict[str, ImageFinder] = {}
    for subset in dict.fromkeys(row.get("subset") or "" for row in rows):
        folder = path.parent / "images" / subset
        # A subset named ../.. is not a folder to look into.
        own = (
            folder if subset not in ("", "..") and Path(subset).name == subset and is_folder(folder) else None
        )
        finders[subset] = ImageFinder(path, own, single=True)
        finders[subset].expect(row.get("name") or "" for row in rows if (row.get("subset") or "") == subset)
    for position, row in enumerate(rows, start=1):
        name = row.get("name") or ""
        if not is_file_name(name):
            reason = f"image {position}: its name is {short_repr(name, 60)}"
            validation.add("bad-label", path, reason)
            continue
        width, height = (max(0, parse_integer(row.get(key)) or 0) for key in ("width", "height"))
        size = (width, height) if details and 0 < width * height <= max_image_pixels() else None
        shapes = list(_shapes(path, name, row, size, validation))
        yield LabelledImage(finders[row.get("subset") or ""](name), path, width, height, shapes)


def _shapes(
    path: Path, image: str, row: Element, size: tuple[int, int] | None, validation: ValidationLog
) -> Iterator[Shape]:
    """Yield the shapes of an image; report what cannot be one."""
    for position, item in enumerate(row, start=1):
        label, place = (
            (item.get("label") or "").strip(),
            f"{short_repr(image, 100)}: {item.tag[:40]} {position}",
        )
        if item.tag not in _READERS:
            validation.add("unused-shape", path, f"{place} '{label[:60]}' encloses nothing", category=label)
            continue
        if not label:
            validation.add("bad-label", path, f"{place}: expected a label")
            continue
        shape = _READERS[item.tag](label, item, size)
        if shape is None:
            reason = f"{place} '{label[:60]}' lacks a number, or has one that is not finite"
            validation.add("bad-box", path, reason, category=label)
        elif shape.area == 0 and item.tag == "mask":
            validation.add("unused-shape", path, f"{place} '{label[:60]}' has no pixel", category=label)
        else:
            yield shape


def _numbers(item: Element, *names: str) -> list[float] | None:
    values = [parse_number(item.get(name)) for name in names]
    return None if None in values else [value for value in values if value is not None]


def _box(label: str, item: Element, size: tuple[int, int] | None) -> Shape | None:
    corners = _numbers(item, "xtl", "ytl", "xbr", "ybr")
    degrees = parse_number(item.get("rotation") or 0)
    if corners is None or degrees is None:
        return None
    x0, y0, x1, y1 = corners
    return turned_rectangle(label, ((x0 + x1) / 2, (y0 + y1) / 2), x1 - x0, y1 - y0, degrees)


def _ellipse(label: str, item: Element, size: tuple[int, int] | None) -> Shape | None:
    numbers, degrees = _numbers(item, "cx", "cy", "rx", "ry"), parse_number(item.get("rotation") or 0)
    return None if numbers is None or degrees is None else ellipse(label, numbers[:2], numbers[2:], degrees)


def _polygon(label: str, item: Element, size: tuple[int, int] | None) -> Shape | None:
    pairs = [pair.split(",") for pair in (item.get("points") or "").split(";")]
    values = [parse_number(value) for pair in pairs for value in pair]
    points = [value for value in values if value is not None]
    if any(len(pair) != 2 for pair in pairs) or len(points) < len(values) or len(pairs) < 3:
        return None
    return polygon(label, [points])


def _mask(label: str, item: Element, size: tuple[int, int] | None) -> Shape | None:
    """Return a mask: run lengths of a rectangle row by row, of pixels outside and inside in turn."""
    corner = [parse_integer(item.get(name)) for name in ("left", "top", "width", "height")]
    counts = [parse_integer(count) for count in (item.get("rle") or "").split(",")]
    runs = [count for count in counts if count is not None and count >= 0]
    if None in corner or len(runs) < len(counts):
        return None
    left, top, width, height = (value for value in corner if value is not None)
    if width < 1 or height < 1 or sum(runs) != width * height or width * height > max_image_pixels():
        return None
    segmentation = None if size is None else _run_lengths(runs, left, top, width, height, size)
    return Shape(label, (float(left), float(top), float(width), float(height)), sum(runs[1::2]), segmentation)


def _run_lengths(
    runs: list[int], left: int, top: int, width: int, height: int, size: tuple[int, int]
) -> dict[str, Any]:
    """Return a mask as COCO writes it: run lengths of the whole image, column by column."""
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    whole = np.zeros((size[1], size[0]), dtype=np.uint8, order="F")
    x0, y0 = min(max(0, left), size[0]), min(max(0, top), size[1])
    part = inside[max(0, y0 - top) :, max(0, x0 - left) :][: size[1] - y0, : size[0] - x0]
    whole[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    packed = rle.encode(whole)
    return {"size": [size[1], size[0]], "counts": packed["counts"].decode("ascii")}


_READERS = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}
