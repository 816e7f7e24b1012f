"""Opens a dataset from what a user types: a folder or an annotation file, with or without its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detrscope.console import log
from detrscope.core.errors import UserError, nearest
from detrscope.data import coco, voc, yolo
from detrscope.data import drawn_dogs as drawn
from detrscope.data.dataset import DetectionDataset
from detrscope.data.decodable import without_unreadable
from detrscope.data.image_files import exists, is_folder, is_regular
from detrscope.data.validation_log import ValidationLog


class Source(NamedTuple):
    """A format: how to list its splits, how to read one, and what it looks like on disk."""

    splits: Callable[[Path], Mapping[str, Any]]
    read_split: Callable[[Path, str, ValidationLog, bool], DetectionDataset]
    layout: str
    is_folder: bool = True  # what follows the prefix; else it is options


SOURCES = {
    "coco": Source(coco.splits, coco.read_split, coco.LAYOUT),
    "yolo": Source(yolo.splits, yolo.read_split, yolo.LAYOUT),
    "voc": Source(voc.splits, voc.read_split, voc.LAYOUT),
    "drawn-dogs": Source(drawn.splits, drawn.read_split, drawn.LAYOUT, is_folder=False),
}


def open_dataset(
    source: str | Path,
    split: str,
    *,
    annotations: str | Path | None = None,
    skip_unreadable: bool = False,
    details: bool = False,
) -> DetectionDataset:
    """A split of a dataset.

    Args:
        source: `coco:DIR`, `yolo:DIR`, `voc:DIR`; a bare folder, whose layout is recognised; a COCO JSON; or
            `drawn-dogs:`, alone or with options (docs/drawn-dogs.md).
        split: `train`, `val`, ...; `val` also finds `valid` and `val2017`. A source that has no splits takes
            any.
        annotations: a COCO JSON to use instead of the one of the split; `source` is then the folder of the
            images.
        skip_unreadable: decode every image now and leave out those that cannot be, with a warning that counts
            and names them; every process that does so leaves out the same. Otherwise such an image stops the
            reading later.
        details: keep segmentation and licences too, which detection does not use.

    Raises:
        UserError: there is no such source or split, or its annotations cannot be used; named, with what to
            do.
    """
    problems = ValidationLog(split)
    dataset = read(source, split, problems, annotations=annotations, details=details)
    boxes = sum(not a.iscrowd for rows in dataset.annotations.values() for a in rows)
    crowds = sum(map(len, dataset.annotations.values())) - boxes
    took = f"{len(dataset)} images, {boxes} boxes, {crowds} crowds, {len(dataset.classes)} classes"
    only_scored = sum(map(len, dataset.unusable.values()))
    more = f"; AP counts {only_scored} of these boxes, as pycocotools does" if only_scored else ""
    log.info("%s: %s; left out: %s%s", dataset.name, took, problems.left_out() or "nothing", more)
    return without_unreadable(dataset) if skip_unreadable else dataset


def read(
    source: str | Path,
    split: str,
    problems: ValidationLog,
    *,
    annotations: str | Path | None = None,
    details: bool = False,
) -> DetectionDataset:
    """As `open_dataset`, with the caller's list of problems.

    Raises:
        UserError: as `open_dataset`; what stops is only raised when `problems` is strict.
    """
    prefix, path = _parts(source)
    if annotations is not None:
        _require_folder(path, source)
        file = _json_of(Path(annotations).expanduser())
        return coco.read_json(file, problems, name=f"{path.name} {split}", images=path, details=details)
    if path.suffix.lower() == ".json" and prefix in (None, "coco"):
        return coco.read_json(_json_of(path), problems, details=details)
    return _format(prefix, path).read_split(path, split, problems, details)


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def splits_of(source: str | Path) -> tuple[str, ...]:
    """The splits of a source; `("*",)` where it has one without a name.

    Raises:
        UserError: there is no such source, or its layout is not known.
    """
    prefix, path = _parts(source)
    if path.suffix.lower() == ".json" and prefix in (None, "coco"):
        return ("*",)
    return tuple(_format(prefix, path).splits(path))


def _parts(source: str | Path) -> tuple[str | None, Path]:
    """Prefix and path. One letter before a colon is a drive, not a prefix."""
    prefix, colon, rest = str(source).partition(":")
    if prefix in SOURCES and not SOURCES[prefix].is_folder and not colon and not exists(Path(source)):
        return prefix, Path()
    if not colon or len(prefix) < 2 or "/" in prefix or exists(Path(source)):
        return None, Path(source).expanduser()
    if prefix not in SOURCES:
        raise UserError(f"{source}: '{prefix}:' is not a known kind of dataset; {nearest(prefix, SOURCES)}")
    return prefix, Path(rest).expanduser()


def _format(prefix: str | None, path: Path) -> Source:
    if prefix is not None and not SOURCES[prefix].is_folder:
        return SOURCES[prefix]
    if _is_yaml(path) and prefix in (None, "yolo"):
        if not is_regular(path):
            raise UserError(f"{path}: no such file")
        return SOURCES["yolo"]
    _require_folder(path, path)
    folders = {name: source for name, source in SOURCES.items() if source.is_folder}
    if prefix is not None:
        if not SOURCES[prefix].splits(path):
            raise UserError(f"{path}: not the layout of {prefix}; expected {SOURCES[prefix].layout}")
        return SOURCES[prefix]
    fitting = [name for name, source in folders.items() if source.splits(path)]
    if len(fitting) == 1:
        return SOURCES[fitting[0]]
    if fitting:
        raise UserError(f"{path}: may be {' or '.join(fitting)}; say which, such as {fitting[0]}:{path}")
    known = "; ".join(f"{name}: {source.layout}" for name, source in folders.items())
    raise UserError(f"{path}: no layout that is known here. {known}")


def _require_folder(path: Path, source: str | Path) -> None:
    if not exists(path):
        raise UserError(f"{source}: no such folder")
    if not is_folder(path):
        raise UserError(f"{source}: expected a folder, a .json of COCO or a data.yaml of YOLO")


def _json_of(path: Path) -> Path:
    if not is_regular(path):
        raise UserError(f"{path}: no such annotation file")
    return path
