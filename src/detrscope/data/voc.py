"""Read PASCAL VOC XML in its usual folder layouts.

Not read by supervision, whose reader decodes every image to learn its size, forgets `difficult`,
knows no ImageSets, numbers classes in order of appearance (a different order in each split), and treats
every box as 1-based, which only PASCAL's own boxes are. The two agree on boxes up to that pixel, by test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.text_files import read_lines
from detrscope.data.clean import clean_dataset
from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo
from detrscope.data.image_files import (
    HIDDEN,
    FileIndex,
    image_name_key,
    image_subfolder,
    is_hidden,
    is_image_file,
    is_regular,
    refuse_images_outside,
    scan_folder,
)
from detrscope.data.parse_values import parse_boolean, parse_integer, parse_number
from detrscope.data.splits import ANY, canonical_split, find_split
from detrscope.data.validation_log import ValidationLog
from detrscope.data.xml_files import read_xml, root_tag

LAYOUT = "Annotations/*.xml + JPEGImages/ [+ ImageSets/Main/SPLIT.txt], or SPLIT/*.xml beside the images"
_OF_ONE_CLASS = re.compile(r"\S+\s+(-1|0|1)")
_NAMES = ("classes.txt", "labels.txt")


def splits(folder: Path) -> dict[str, Path]:
    """Return the list file or folder of each split; empty where the folder is not of a VOC layout.

    `trainval` is left out of a folder that has `train` and `val`; it can still be read by its name.
    """
    every = _splits(folder)
    return {n: p for n, p in every.items() if n != "trainval" or not {"train", "val"} <= every.keys()}


def read_split(
    folder: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a folder.

    Classes are those of classes.txt or labels.txt where there is one, else all names in any split in alphabetical
    order; their category ids count from 1, as do image and annotation ids. Objects marked `difficult` become crowds:
    left out of the targets and ignored in evaluation, as in VOC. Corners are taken as written, except in PASCAL's own
    files (`<annotation>PASCAL VOC...`), where pixels count from 1 and the last one is included.

    Args:
        folder: Folder with the layout, or the parent of one such folder.
        split: Name of a file in ImageSets/Main, or of a folder.
        validation: Log to report to.
        details: Not used: VOC's XML has nothing more that COCO's JSON could hold.

    Raises:
        UserError: there is no such split, or an XML cannot be read.
    """
    splits = _splits(folder)
    root = _root(folder)
    path = splits[find_split(split, splits, str(folder))]
    pages = {p: _read_page(p, validation) for p in _all_xml(root, splits)}
    classes = _classes(root, pages.values())
    index = {n: i for n, i in zip(classes.names, classes.ids, strict=True)}
    images: list[ImageInfo] = []
    annotations: list[Annotation] = []
    members = list(_members(root, path, validation))
    for image_id, (xml, image) in enumerate(members, start=1):
        page = pages[xml] if xml else _Page()
        images.append(ImageInfo(image_id, image, page.width, page.height))
        for item in page.objects:
            own = len(annotations) + 1
            if not item.name:
                validation.add("bad-label", xml, "an object without a name", own)
                continue
            if item.box is None:
                validation.add(
                    "bad-label", xml, f"the bndbox of '{item.name}' lacks a number", own, item.name
                )
                continue
            if item.reversed:
                validation.add("corners-reversed", xml, "xmin > xmax or ymin > ymax", own, item.name)
            if item.difficult is None:
                validation.add("bad-value", xml, "difficult is neither 0 nor 1", own, item.name)
                continue
            if item.name not in index:
                reason = f"'{item.name}' is not in the list of classes"
                validation.add("undeclared-category", xml, reason, own, item.name)
                continue
            area = item.box[2] * item.box[3]
            annotations.append(Annotation(own, image_id, index[item.name], item.box, area, item.difficult))
    _report_labels(root, splits, images, members, validation)
    return clean_dataset(f"{folder.name} {split}", images, annotations, classes, validation, source=root)


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float] | None  # x, y, width, height
    difficult: bool | None  # None: a value other than 0 and 1
    reversed: bool  # drawn from right to left, or from below


@dataclass(frozen=True)
class _Page:
    """Contents of one XML file."""

    width: int = 0  # pixels; 0 where it is not declared
    height: int = 0
    objects: tuple[_Object, ...] = ()


def _read_page(path: Path, validation: ValidationLog) -> _Page:
    try:
        root = read_xml(path)
    except UserError as error:
        validation.add("bad-label", path, str(error).removeprefix(f"{path}: "))
        return _Page()
    if root.tag.rpartition("}")[2] != "annotation":
        validation.add("bad-label", path, f"begins with <{root.tag[:40]}>, expected VOC's <annotation>")
        return _Page()
    one_based = (root.findtext("source/annotation") or "").strip().startswith("PASCAL VOC")
    objects = []
    for item in root.iter("object"):
        corners = [parse_number(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
        box, swapped = None, False
        if None not in corners:
            x0, y0, x1, y1 = (c for c in corners if c is not None)
            swapped = x0 > x1 or y0 > y1
            (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
            shift = 1 if one_based else 0
            box = (x0 - shift, y0 - shift, x1 - x0 + shift, y1 - y0 + shift)
        name = (item.findtext("name") or "").strip()
        objects.append(_Object(name, box, parse_boolean(item.findtext("difficult")), swapped))
    sides = []
    for key in ("width", "height"):
        text = root.findtext(f"size/{key}")
        side = parse_integer(text)
        if text and text.strip() and side is None and parse_number(text) is not None:
            side = round(parse_number(text) or 0)
        if text and text.strip() and side is None:
            validation.add("bad-value", path, f"{key} is {text.strip()[:40]!r}, expected pixels")
        sides.append(side or 0)
    return _Page(sides[0], sides[1], tuple(objects))


def _classes(root: Path, pages: Iterable[_Page]) -> ClassTable:
    for name in _NAMES:
        if (root / name).is_file():
            names = read_lines(root / name)
            break
    else:
        names = sorted({item.name for page in pages for item in page.objects} - {""})
    return ClassTable(tuple(range(1, len(names) + 1)), tuple(names))


def _root(folder: Path) -> Path:
    """Return the folder that has Annotations/: itself, or its only child or grandchild in VOCdevkit/ that does."""
    if _annotations_folder(folder):
        return folder
    below = [path for pattern in ("*", "VOCdevkit/*") for path in sorted(folder.glob(pattern))]
    inner = [path for path in below if not is_hidden(path) and _annotations_folder(path)]
    if len(inner) > 1:
        raise UserError(f"{folder}: holds several VOC folders; give one of {', '.join(map(str, inner))}")
    return inner[0] if inner else folder


def _splits(folder: Path) -> dict[str, Path]:
    root = _root(folder)
    if annotations := _annotations_folder(root):
        lists = {p.stem: p for p in _lists(root) if _is_plain_list(p, annotations)}
        return lists or {ANY: annotations}
    folders = (p for p in sorted(folder.iterdir()) if p.is_dir() and not is_hidden(p))
    return {p.name: p for p in folders if _has_xml(p)} or ({ANY: folder} if _has_xml(folder) else {})


def _annotations_folder(root: Path) -> Path | None:
    """Return Annotations/ with XML in it, or with JPEGImages/ beside it: COCO has a folder of that name, too."""
    folder = image_subfolder(root, "Annotations")
    return folder if folder and (_has_xml(folder) or image_subfolder(root, "JPEGImages")) else None


def _images_folder(root: Path) -> Path | None:
    return image_subfolder(root, "JPEGImages") or image_subfolder(root, "images")


def _lists(root: Path) -> list[Path]:
    sets = image_subfolder(root, "ImageSets")
    folder = image_subfolder(sets, "Main") if sets else None
    return sorted(p for p in folder.glob("*.txt") if not is_hidden(p)) if folder else []


def _has_xml(folder: Path) -> bool:
    found = (path for path in folder.glob("*.xml") if not is_hidden(path))
    return any(root_tag(path) != "annotations" for path in found)  # CVAT's, of many images


def _is_plain_list(path: Path, annotations: Path) -> bool:
    """Return whether a list is not of one class: PASCAL's `dog_train.txt` has a second column of 1, 0 and -1."""
    first = next(iter(read_lines(path)), "")
    return bool(first) and (not _OF_ONE_CLASS.fullmatch(first) or is_regular(annotations / f"{first}.xml"))


def _all_xml(root: Path, splits: dict[str, Path]) -> list[Path]:
    annotations = _annotations_folder(root)
    folders = [annotations] if annotations else list(splits.values())
    return sorted(p for folder in folders for p in folder.glob("*.xml") if not is_hidden(p))


def _report_labels(
    root: Path,
    splits: dict[str, Path],
    images: list[ImageInfo],
    members: list[tuple[Path | None, Path]],
    validation: ValidationLog,
) -> None:
    """Report a split whose images have no XML at all, and XML that no split uses."""
    if members and all(xml is None for xml, _ in members) and canonical_split(validation.split) != "test":
        reason = f"no XML for any of its {len(images)} images, such as {images[0].path.name}"
        validation.add("no-labels", root, reason)
    lists = [path for path in splits.values() if path.suffix == ".txt"]
    if lists:
        listed = {image_name_key(_stem(line)) for path in lists for line in read_lines(path)}
        for path in _all_xml(root, splits):
            if image_name_key(path.stem) not in listed:
                validation.add("unused-file", path, "in no list of ImageSets/Main")


def _stem(line: str) -> str:
    """Return the name in a line of a list; some tools write it with the suffix of the image."""
    return line.rsplit(".", 1)[0] if is_image_file(Path(line)) else line


def _members(root: Path, split: Path, validation: ValidationLog) -> Iterator[tuple[Path | None, Path]]:
    """Yield XML (None where an image has none) and image of a split, in its order."""
    files = FileIndex()
    if split.suffix == ".txt":
        annotations = _annotations_folder(root) or root
        images = _images_folder(root) or root / "JPEGImages"
        stems = files.stems(images)
        for line in read_lines(split):
            stem = _stem(line)
            refuse_images_outside(annotations / stem, root, split)
            if is_hidden(Path(stem)):
                validation.add("left-out-file", images / stem, HIDDEN)
                continue
            in_folder = stems if "/" not in stem else files.stems((images / stem).parent)
            same_stem = in_folder.get(image_name_key(stem.rpartition("/")[2])) or [images / f"{stem}.jpg"]
            yield files.find(annotations / f"{stem}.xml"), _first(same_stem, validation)
        return
    images = (_images_folder(root) if _annotations_folder(root) else None) or split
    pages = {image_name_key(p.stem): p for p in sorted(split.glob("*.xml")) if not is_hidden(p)}
    stems = files.stems(images)
    contents = scan_folder(images)
    for path, reason in contents.left_out({".xml", ".txt"}):
        validation.add("left-out-file", path, reason)
    for path in contents.images:
        if path.parent != images:
            validation.add("left-out-file", path, "in a folder inside that of the images")
    for stem in sorted(pages.keys() | stems.keys()):
        page = pages.get(stem)
        missing = images / f"{page.stem if page else stem}.jpg"
        yield page, _first(stems.get(stem) or [missing], validation)


def _first(images: list[Path], validation: ValidationLog) -> Path:
    """Return the image of an XML: the first of those with its name; the others are reported."""
    for other in images[1:]:
        validation.add("unused-file", other, f"{images[0].name} is the image of {other.stem}.xml")
    return images[0]
