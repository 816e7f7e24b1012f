"""PASCAL VOC's XML, in the folder layouts that it is found in.

Read here and not by supervision, whose reader decodes every image to learn its size, forgets `difficult`,
knows no ImageSets, numbers classes by the order in which files are met (another one in each split), and takes
every box for 1-based, which only PASCAL's own are. The two agree on boxes up to that pixel, by test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.text_files import read_bytes, read_lines
from detrscope.data.clean import RawBox, RawImage, clean_dataset
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import (
    Directory,
    child,
    is_hidden,
    is_picture,
    is_regular,
    name_key,
    refuse_outside,
    scan,
)
from detrscope.data.parse_values import boolean, integer, number
from detrscope.data.splits import ANY, canonical_split, find_split
from detrscope.data.validation_log import ValidationLog

LAYOUT = "Annotations/*.xml + JPEGImages/ [+ ImageSets/Main/SPLIT.txt], or SPLIT/*.xml beside the images"
_OF_ONE_CLASS = re.compile(r"\S+\s+(-1|0|1)")
_NAMES = ("classes.txt", "labels.txt")


def splits(folder: Path) -> dict[str, Path]:
    """The list file or folder of each split; empty where the folder is not of a VOC layout.

    `trainval` is left out of a folder that has `train` and `val`; it can still be read by its name.
    """
    found = _splits(folder)
    return {n: p for n, p in found.items() if n != "trainval" or not {"train", "val"} <= found.keys()}


def read_split(folder: Path, split: str, problems: ValidationLog, details: bool = False) -> DetectionDataset:
    """One split of a folder.

    Classes are those of classes.txt or labels.txt where there is one, else all names found in any split in
    alphabetical order; their category ids count from 1, as do image and annotation ids. Objects marked
    `difficult` become crowds: left out of the targets and ignored in evaluation, as VOC does. Corners are
    taken as written, except in PASCAL's own files (`<annotation>PASCAL VOC...`), where pixels count from 1
    and the last one is included.

    Args:
        folder: with the layout, or the parent of one such folder.
        split: name of a file in ImageSets/Main, or of a folder.
        problems: where to report.
        details: not used: VOC's XML has nothing more that COCO's JSON could hold.

    Raises:
        UserError: no such split, or an XML that cannot be read.
    """
    found = _splits(folder)
    name = find_split(split, found, str(folder))
    root = _root(folder)
    pages = {p: _page(p, problems) for p in _all_xml(root, found)}
    classes = _classes(root, pages.values())
    index = {n: i for n, i in zip(classes.names, classes.ids, strict=True)}
    images: list[RawImage] = []
    boxes: list[RawBox] = []
    members = list(_members(root, found[name], problems))
    for position, (xml, image) in enumerate(members, start=1):
        page = pages[xml] if xml else _Page(None, None, ())
        images.append(RawImage(position, image, page.width, page.height))
        for item in page.objects:
            own = len(boxes) + 1
            if not item.name:
                problems.add("bad-label", xml, "an object without a name", own)
                continue
            if item.box is None:
                problems.add("bad-label", xml, f"the bndbox of '{item.name}' lacks a number", own, item.name)
                continue
            if item.reversed:
                problems.add("corners-reversed", xml, "xmin > xmax or ymin > ymax", own, item.name)
            if item.difficult is None:
                problems.add("bad-value", xml, "difficult is neither 0 nor 1", own, item.name)
                continue
            if item.name not in index:
                problems.add(
                    "undeclared-category", xml, f"'{item.name}' is not in the list of classes", own, item.name
                )
                continue
            boxes.append(
                RawBox(own, position, index[item.name], item.box, item.box[2] * item.box[3], item.difficult)
            )
    _report_labels(root, found, images, members, problems)
    return clean_dataset(f"{folder.name} {split}", images, boxes, classes, problems, source=root)


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float] | None  # x, y, width, height
    difficult: bool | None  # None: not a value that can be understood
    reversed: bool  # drawn from right to left, or from below


@dataclass(frozen=True)
class _Page:
    """What one XML says."""

    width: int | None
    height: int | None
    objects: tuple[_Object, ...]


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types: entities that expand to gigabytes are declared there, and VOC needs none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise UserError("a document type declaration is not allowed")


def _page(path: Path, problems: ValidationLog) -> _Page:
    try:
        root = ElementTree.XML(read_bytes(path), ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError, UserError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        problems.add("bad-label", path, f"not valid XML ({reason})")
        return _Page(None, None, ())
    if root.tag.rpartition("}")[2] != "annotation":
        problems.add("bad-label", path, f"begins with <{root.tag[:40]}>, expected VOC's <annotation>")
        return _Page(None, None, ())
    one_based = (root.findtext("source/annotation") or "").strip().startswith("PASCAL VOC")
    objects = []
    for item in root.iter("object"):
        corners = [number(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
        box, swapped = None, False
        if None not in corners:
            x0, y0, x1, y1 = (c for c in corners if c is not None)
            swapped = x0 > x1 or y0 > y1
            (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
            shift = 1 if one_based else 0
            box = (x0 - shift, y0 - shift, x1 - x0 + shift, y1 - y0 + shift)
        name = (item.findtext("name") or "").strip()
        objects.append(_Object(name, box, boolean(item.findtext("difficult")), swapped))
    sides = []
    for key in ("width", "height"):
        text = root.findtext(f"size/{key}")
        side = integer(text)
        if text and text.strip() and side is None and number(text) is not None:
            side = round(number(text) or 0)
        if text and text.strip() and side is None:
            problems.add("bad-value", path, f"{key} is {text.strip()[:40]!r}, not pixels")
        sides.append(side or None)
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
    """The folder that has Annotations/: itself, or its only child or grandchild in VOCdevkit/ that does."""
    if _annotations(folder):
        return folder
    below = [path for pattern in ("*", "VOCdevkit/*") for path in sorted(folder.glob(pattern))]
    inner = [path for path in below if not is_hidden(path) and _annotations(path)]
    if len(inner) > 1:
        raise UserError(f"{folder}: holds several VOC folders; give one of {', '.join(map(str, inner))}")
    return inner[0] if inner else folder


def _splits(folder: Path) -> dict[str, Path]:
    root = _root(folder)
    if annotations := _annotations(root):
        lists = {p.stem: p for p in _lists(root) if _is_plain_list(p, annotations)}
        return lists or {ANY: annotations}
    found = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not is_hidden(p) and _has_xml(p)}
    return found or ({ANY: folder} if _has_xml(folder) else {})


def _annotations(root: Path) -> Path | None:
    """The folder Annotations/ with XML in it, or with JPEGImages/ beside it: COCO has one of that name, too."""
    folder = child(root, "Annotations")
    return folder if folder and (_has_xml(folder) or child(root, "JPEGImages")) else None


def _pictures(root: Path) -> Path | None:
    return child(root, "JPEGImages") or child(root, "images")


def _lists(root: Path) -> list[Path]:
    sets = child(root, "ImageSets")
    folder = child(sets, "Main") if sets else None
    return sorted(p for p in folder.glob("*.txt") if not is_hidden(p)) if folder else []


def _has_xml(folder: Path) -> bool:
    return any(not is_hidden(path) for path in folder.glob("*.xml"))


def _is_plain_list(path: Path, annotations: Path) -> bool:
    """Not one of PASCAL's lists for one class, `dog_train.txt`, which have a second column of 1, 0 and -1."""
    first = next(iter(read_lines(path)), "")
    return bool(first) and (not _OF_ONE_CLASS.fullmatch(first) or is_regular(annotations / f"{first}.xml"))


def _all_xml(root: Path, found: dict[str, Path]) -> list[Path]:
    annotations = _annotations(root)
    folders = [annotations] if annotations else list(found.values())
    return sorted(p for folder in folders for p in folder.glob("*.xml") if not is_hidden(p))


def _report_labels(
    root: Path,
    found: dict[str, Path],
    images: list[RawImage],
    members: list[tuple[Path | None, Path]],
    problems: ValidationLog,
) -> None:
    """Report a split whose images have no XML at all, and XML that no split uses."""
    if members and all(xml is None for xml, _ in members) and canonical_split(problems.split) != "test":
        reason = f"no XML for any of its {len(images)} images, such as {images[0].path.name}"
        problems.add("no-labels", root, reason)
    lists = [path for path in found.values() if path.suffix == ".txt"]
    if lists:
        listed = {name_key(_stem(line)) for path in lists for line in read_lines(path)}
        for path in _all_xml(root, found):
            if name_key(path.stem) not in listed:
                problems.add("unused-file", path, "in no list of ImageSets/Main")


def _stem(line: str) -> str:
    """The name in a line of a list; some tools write it with the ending of the image."""
    return line.rsplit(".", 1)[0] if is_picture(Path(line)) else line


def _members(root: Path, split: Path, problems: ValidationLog) -> Iterator[tuple[Path | None, Path]]:
    """XML (None where an image has none) and image of a split, in its order."""
    directory = Directory()
    if split.suffix == ".txt":
        annotations = _annotations(root) or root
        images = _pictures(root) or root / "JPEGImages"
        stems = directory.stems(images)
        for line in read_lines(split):
            stem = _stem(line)
            refuse_outside(annotations / stem, root, split)
            if is_hidden(Path(stem)):
                problems.add("left-out-file", images / stem, "hidden, or the system's")
                continue
            inside = stems if "/" not in stem else directory.stems((images / stem).parent)
            pictures = inside.get(name_key(stem.rpartition("/")[2])) or [images / f"{stem}.jpg"]
            yield directory.find(annotations / f"{stem}.xml"), _only(pictures, problems)
        return
    images = (_pictures(root) if _annotations(root) else None) or split
    pages = {name_key(p.stem): p for p in sorted(split.glob("*.xml")) if not is_hidden(p)}
    there = directory.stems(images)
    below = scan(images)
    for path, reason in below.left_out({".xml", ".txt"}):
        problems.add("left-out-file", path, reason)
    for path in below.pictures:
        if path.parent != images:
            problems.add("left-out-file", path, "in a folder inside that of the images")
    for stem in sorted(pages.keys() | there.keys()):
        page = pages.get(stem)
        missing = images / f"{page.stem if page else stem}.jpg"
        yield page, _only(there.get(stem) or [missing], problems)


def _only(pictures: list[Path], problems: ValidationLog) -> Path:
    """The picture of an XML; where several have its name, the first one, and the others are reported."""
    for other in pictures[1:]:
        problems.add("unused-file", other, f"{pictures[0].name} is the picture of {other.stem}.xml")
    return pictures[0]
