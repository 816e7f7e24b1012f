"""Read COCO panoptic: a JSON file beside a folder of PNG files, whose colours are the ids of segments.

Every segment, of a thing or of stuff, is one annotation whose mask is read from its PNG file when it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import read_json
from detrscope.data import coco
from detrscope.data.coco_masks import PngSegment
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_finder import is_file_name
from detrscope.data.parse_values import ROW_LENGTH, parse_integer
from detrscope.data.splits import find_split
from detrscope.data.validation_log import ValidationLog

LAYOUT = "annotations/panoptic_SPLIT.json + annotations/panoptic_SPLIT/*.png + SPLIT/"
PREFIX = "panoptic_"


def splits(folder: Path) -> dict[str, Path]:
    """Return the annotation file of each split; empty where the folder is not of this layout."""
    files = [
        *sorted((folder / "annotations").glob(f"{PREFIX}*.json")),
        *sorted(folder.glob(f"{PREFIX}*.json")),
    ]
    found: dict[str, Path] = {}
    for path in files:
        found.setdefault(path.stem.removeprefix(PREFIX), path)
    return found


def read_split(
    folder: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a folder.

    Args:
        folder: Folder of this layout.
        split: Name of the split.
        validation: Log to report to.
        details: Whether to keep masks, things and stuff, licences and other fields.

    Raises:
        UserError: there is no such split, the file is not COCO panoptic's, or as `coco.read_json`.
    """
    files = splits(folder)
    own = find_split(split, files, str(folder))
    path = files[own]
    tree = read_json(path)
    rows = tree.get("annotations") if isinstance(tree, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and "segments_info" in row for row in rows
    ):
        raise UserError(f"{path}: expected COCO panoptic: annotations with 'file_name' and 'segments_info'")
    annotations: list[dict[str, Any]] = []
    for row in rows:
        name = row.get("file_name")
        if not isinstance(name, str) or not is_file_name(name) or not isinstance(row["segments_info"], list):
            keys = short_repr({key: row.get(key) for key in ("image_id", "file_name")}, ROW_LENGTH)
            validation.add("bad-id", path, f"annotation {keys}: expected a 'file_name' and 'segments_info'")
            continue
        png = path.with_suffix("") / name
        annotations += [
            _annotation(segment, row.get("image_id"), png, len(annotations) + 1 + index)
            for index, segment in enumerate(row["segments_info"])
            if isinstance(segment, dict)
        ]
    return coco.read_tree(
        {**tree, "annotations": annotations},
        path,
        validation,
        name=f"{folder.name} {path.stem}",
        images=folder / own if (folder / own).is_dir() else None,
        details=details,
    )


def _annotation(segment: dict[str, Any], image_id: Any, png: Path, number: int) -> dict[str, Any]:
    """Return a segment as an annotation of COCO; ids of segments are unique in their image only."""
    own = parse_integer(segment.get("id"))
    mask = None if own is None else PngSegment(png, own)
    return {**segment, "id": number, "image_id": image_id, "segmentation": mask}
