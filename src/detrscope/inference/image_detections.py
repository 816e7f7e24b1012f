"""Detections in one image or video frame, with where they come from: for JSON, CSV and other libraries."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from detrscope.core.errors import UserError
from detrscope.core.html import html_text
from detrscope.core.safe_text import safe_csv_row
from detrscope.core.types import Detections
from detrscope.data.coco_masks import encode_mask
from detrscope.data.image_reader import read_image
from detrscope.display import DisplayedDetections, ImageReference, detections_table

if TYPE_CHECKING:
    import supervision

BOX_COLUMNS = ("x0", "y0", "x1", "y1", "score", "category_id", "name", "query_id")
CSV_COLUMNS = ("source", "frame", "time", *BOX_COLUMNS)


@dataclass(frozen=True)
class ImageDetections:
    """Detections in one image, or in one frame of a video."""

    source: str
    detections: Detections
    frame: int | None = None  # index in the video
    time: float | None = None  # seconds since the first frame
    note: str = ""  # warning about these detections, such as of a model that does not know photographs

    def _repr_html_(self) -> str:
        """Return the image with boxes and a table; of a frame of a video, the table."""
        note = f"<div><i>{html_text(self.note, 300)}</i></div>" if self.note else ""
        if self.frame is not None:
            return f"{note}<div>frame {self.frame} of {html_text(self.source)}</div>{detections_table(self.detections)}"
        reference = ImageReference(self.source, read_image)
        return note + DisplayedDetections.of(self.detections, reference)._repr_html_()

    def to_json(self) -> dict[str, Any]:
        """Return plain data; boxes in pixels of the upright original, masks as COCO's compressed run lengths."""
        d = self.detections
        frame = {} if self.frame is None else {"frame": self.frame, "time": self.time}
        note = {"note": self.note} if self.note else {}
        keys = ("box_xyxy", "score", "category_id", "name", "query_id")
        columns = (d.boxes_xyxy.tolist(), d.scores.tolist(), d.labels.tolist(), d.names, d.query_ids.tolist())
        rows: list[dict[str, Any]] = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        if d.track_ids is not None:
            for row, track in zip(rows, d.track_ids.tolist(), strict=True):
                row["track_id"] = None if track < 0 else track
        if d.tiles_xyxy is not None:
            for row, tile in zip(rows, d.tiles_xyxy.tolist(), strict=True):
                row["tile_xyxy"] = tile
        if d.masks is not None:
            for row, mask in zip(rows, d.masks, strict=True):
                row["segmentation"] = encode_mask(mask.numpy())
        size = {"width": d.width, "height": d.height}
        return {"source": self.source, **frame, **note, **size, "detections": rows}

    def to_rows(self) -> list[tuple[Any, ...]]:
        """Return a row of `CSV_COLUMNS` for each detection, and its track where detections are tracked.

        Tiles and masks are in JSON only.
        """
        bare = replace(self, detections=replace(self.detections, masks=None, tiles_xyxy=None))
        rows = [list(row.values()) for row in bare.to_json()["detections"]]
        return [(self.source, self.frame, self.time, *box, *rest) for box, *rest in rows]


class DetectionsCsv:
    """Writer of CSV: a header, and a row for each detection. Names that a spreadsheet would compute get an apostrophe.

    Args:
        file: file to write to.
        tracked: whether there is a column of tracks.
    """

    def __init__(self, file: TextIO, *, tracked: bool = False) -> None:
        self._writer = csv.writer(file)
        self._writer.writerow((*CSV_COLUMNS, "track_id") if tracked else CSV_COLUMNS)

    def add(self, detections: ImageDetections) -> None:
        """Write the rows of one image or frame."""
        self._writer.writerows(safe_csv_row(row) for row in detections.to_rows())


def detections_of_classes(detections: Detections, names: Collection[str]) -> Detections:
    """Return the detections of some classes; all of them where `names` is empty."""
    if not names:
        return detections
    keep = [i for i, name in enumerate(detections.names) if name in names]
    return detections.select(keep)


def to_supervision(detections: Detections) -> supervision.Detections:
    """Return the detections as those of `supervision`; class ids are the original category ids.

    Raises:
        UserError: supervision is not installed.
    """
    import numpy as np

    try:
        import supervision
    except ImportError:
        raise UserError(
            "supervision is not installed; it comes with `pip install 'detrscope[supervision]'`"
        ) from None

    return supervision.Detections(
        xyxy=detections.boxes_xyxy.numpy().astype(np.float32).reshape(-1, 4),
        confidence=detections.scores.numpy().astype(np.float32),
        class_id=detections.labels.numpy().astype(int),
        mask=None if detections.masks is None else detections.masks.numpy(),
        data={"class_name": np.array(detections.names, dtype=str), "query_id": detections.query_ids.numpy()},
    )
