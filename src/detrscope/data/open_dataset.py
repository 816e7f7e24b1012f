"""Open a dataset from a source: a folder or an annotation file, with or without its format."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from detrscope.console import log
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.data import coco, coco_panoptic, crowdhuman, cvat, label_studio, labelme, voc, yolo
from detrscope.data import drawn_dogs as drawn
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import exists, is_folder, is_regular
from detrscope.data.image_reader import read_image
from detrscope.data.parallel_decode import decode_all
from detrscope.data.validation_log import ValidationLog


class SourceFormat(NamedTuple):
    """Readers of a dataset format."""

    splits: Callable[[Path], Mapping[str, Any]]  # names of the splits of a folder; empty: another format
    read_split: Callable[[Path, str, ValidationLog, bool], DetectionDataset]
    layout: str  # files and folders, for messages
    is_folder: bool = True  # whether a folder follows the prefix; else options do
    suffixes: tuple[str, ...] = ()  # of a file that may stand in place of the folder
    recognised: bool = True  # whether a bare folder may be meant


SOURCE_FORMATS = {
    "coco": SourceFormat(coco.splits, coco.read_split, coco.LAYOUT, suffixes=(".json",)),
    # Its folders are usually COCO's too, which is meant without a prefix.
    "coco-panoptic": SourceFormat(
        coco_panoptic.splits, coco_panoptic.read_split, coco_panoptic.LAYOUT, recognised=False
    ),
    "yolo": SourceFormat(yolo.splits, yolo.read_split, yolo.LAYOUT, suffixes=(".yaml", ".yml")),
    "voc": SourceFormat(voc.splits, voc.read_split, voc.LAYOUT),
    "labelme": SourceFormat(labelme.splits, labelme.read_split, labelme.LAYOUT),
    "cvat": SourceFormat(cvat.splits, cvat.read_split, cvat.LAYOUT, suffixes=(".xml",)),
    "labelstudio": SourceFormat(
        label_studio.splits, label_studio.read_split, label_studio.LAYOUT, suffixes=(".json",)
    ),
    "crowdhuman": SourceFormat(
        crowdhuman.splits, crowdhuman.read_split, crowdhuman.LAYOUT, suffixes=(".odgt",)
    ),
    "drawn-dogs": SourceFormat(drawn.splits, drawn.read_split, drawn.LAYOUT, is_folder=False),
}


def open_dataset(
    source: str | Path,
    split: str,
    *,
    annotations: str | Path | None = None,
    skip_unreadable: bool = False,
    details: bool = False,
) -> DetectionDataset:
    """Open one split of a dataset.

    Args:
        source: `coco:DIR`, `coco-panoptic:DIR`, `yolo:DIR`, `voc:DIR`, `labelme:DIR`, `cvat:DIR`, `labelstudio:DIR`,
            `crowdhuman:DIR`; a bare folder, whose layout is recognised; a file of COCO, YOLO, CVAT, Label Studio or
            CrowdHuman, with or without its format in front; or `drawn-dogs:`, alone or with options
            (docs/drawn-dogs.md).
        split: Name of the split: `train`, `val`, ...; `val` also finds `valid` and `val2017`. A source that has no
            splits takes any.
        annotations: COCO JSON to use instead of that of the split; `source` is then the folder of the images.
        skip_unreadable: Whether to decode every image now and leave out those that cannot be, with a warning that
            counts and names them; every process that does so leaves out the same. Otherwise such an image stops the
            reading later.
        details: Whether to keep segmentation and licences too, which detection does not use.

    Raises:
        UserError: there is no such source or split, or its annotations cannot be used.
    """
    validation = ValidationLog(split)
    dataset = read_dataset(source, split, validation, annotations=annotations, details=details)
    boxes = sum(not a.iscrowd for rows in dataset.annotations.values() for a in rows)
    crowds = sum(map(len, dataset.annotations.values())) - boxes
    counts = f"{len(dataset)} images, {boxes} boxes, {crowds} crowds, {len(dataset.classes)} classes"
    only_scored = sum(map(len, dataset.unusable.values()))
    more = f"; AP counts {only_scored} of these boxes, as pycocotools does" if only_scored else ""
    log.info("%s: %s; left out: %s%s", dataset.name, counts, validation.left_out() or "nothing", more)
    return _without_unreadable(dataset) if skip_unreadable else dataset


def read_dataset(
    source: str | Path,
    split: str,
    validation: ValidationLog,
    *,
    annotations: str | Path | None = None,
    details: bool = False,
) -> DetectionDataset:
    """Open one split as `open_dataset` does, with the caller's log.

    Raises:
        UserError: as `open_dataset`; problems that stop are raised only when `validation` is strict.
    """
    prefix, path = _parts(source)
    if annotations is not None:
        _require_folder(path, source)
        file = _regular_file(Path(annotations).expanduser())
        return coco.read_json(file, validation, name=f"{path.name} {split}", images=path, details=details)
    with _without_collection():
        return _format(prefix, path).read_split(path, split, validation, details)


def splits_of(source: str | Path) -> tuple[str, ...]:
    """Return the splits of a source; `("*",)` where it has one without a name.

    Raises:
        UserError: there is no such source, or its layout is not recognised.
    """
    prefix, path = _parts(source)
    return tuple(_format(prefix, path).splits(path))


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the search for cycles: a quarter of the time of a million records, none of which is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_annotation_file(name: str) -> bool:
    """Return whether a name ends as a file does that is a dataset of its own."""
    endings = (suffix for source in SOURCE_FORMATS.values() for suffix in source.suffixes)
    return name.lower().endswith(tuple(endings))


def _parts(source: str | Path) -> tuple[str | None, Path]:
    """Split a source into prefix and path. One letter before a colon is a drive, not a prefix."""
    prefix, colon, rest = str(source).partition(":")
    if (
        prefix in SOURCE_FORMATS
        and not SOURCE_FORMATS[prefix].is_folder
        and not colon
        and not exists(Path(source))
    ):
        return prefix, Path()
    if not colon or len(prefix) < 2 or "/" in prefix or exists(Path(source)):
        return None, Path(source).expanduser()
    if prefix not in SOURCE_FORMATS:
        raise UserError(
            f"{source}: '{prefix}:' is not a known dataset format; {suggest_nearest(prefix, SOURCE_FORMATS)}"
        )
    return prefix, Path(rest).expanduser()


def _format(prefix: str | None, path: Path) -> SourceFormat:
    if prefix is not None and not SOURCE_FORMATS[prefix].is_folder:
        return SOURCE_FORMATS[prefix]
    takers = [
        name
        for name, source in SOURCE_FORMATS.items()
        if path.suffix.lower() in source.suffixes and prefix in (None, name)
    ]
    if takers and not is_folder(path):
        _regular_file(path)
        # COCO and Label Studio both write .json.
        other = len(takers) > 1 and label_studio.is_export(path)
        return SOURCE_FORMATS["labelstudio" if other else takers[0]]
    _require_folder(path, path)
    if prefix is not None:
        if not SOURCE_FORMATS[prefix].splits(path):
            others, _ = _fitting_formats(path)
            hint = f"; it has the layout of {others[0]}: give {others[0]}:{path}" if others else ""
            raise UserError(
                f"{path}: not the layout of {prefix}; expected {SOURCE_FORMATS[prefix].layout}{hint}"
            )
        return SOURCE_FORMATS[prefix]
    fitting, errors = _fitting_formats(path)
    if errors and not fitting:
        raise errors[0]
    for problem in errors:
        log.info("not read beside %s: %s", " and ".join(fitting), problem)
    if len(fitting) == 1:
        return SOURCE_FORMATS[fitting[0]]
    if fitting:
        raise UserError(f"{path}: may be {' or '.join(fitting)}; choose one, such as {fitting[0]}:{path}")
    known = "; ".join(f"{name}: {source.layout}" for name, source in _recognised_formats().items())
    raise UserError(f"{path}: the layout is not recognised; expected one of: {known}")


def _recognised_formats() -> dict[str, SourceFormat]:
    """Return the formats of folders that are recognised without a prefix, by name."""
    return {name: source for name, source in SOURCE_FORMATS.items() if source.is_folder and source.recognised}


def _fitting_formats(path: Path) -> tuple[list[str], list[UserError]]:
    """Return the formats that a folder has the layout of, and the errors of the others."""
    fitting: list[str] = []
    errors: list[UserError] = []
    for name, source in _recognised_formats().items():
        try:
            if source.splits(path):
                fitting.append(name)
        except UserError as error:  # of files that count only where no other format fits
            errors.append(error)
    return fitting, errors


def _require_folder(path: Path, source: str | Path) -> None:
    if not exists(path):
        raise UserError(f"{source}: no such folder")
    if not is_folder(path):
        raise UserError(
            f"{source}: expected a folder, a .json of COCO or Label Studio, a data.yaml of YOLO, an .xml of CVAT or an"
            " .odgt of CrowdHuman"
        )


def _regular_file(path: Path) -> Path:
    if not is_regular(path):
        raise UserError(f"{path}: no such annotation file")
    return path


def _without_unreadable(dataset: DetectionDataset) -> DetectionDataset:
    """Return the dataset without the images that cannot be decoded; a warning counts and names them."""

    def error_of(index: int) -> str | None:
        try:
            read_image(dataset.images[index].path)
        except UserError as error:
            return str(error)
        return None

    pixels = (image.width * image.height for image in dataset.images)
    errors = list(decode_all(error_of, pixels, f"reading {dataset.name}"))
    bad = [error for error in errors if error]
    if not bad:
        return dataset
    examples = "; ".join(bad[:3]) + ("; ..." if len(bad) > 3 else "")
    log.warning("%s: %d of %d images skipped: %s", dataset.name, len(bad), len(dataset), examples)
    return dataset.subset(i.id for i, error in zip(dataset.images, errors, strict=True) if error is None)
