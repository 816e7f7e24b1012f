"""Any dataset that can be read -> a folder in COCO's layout, all splits at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.splits import ANY
from detrscope.data.write_coco import Files, write_coco


def convert(
    source: str | Path,
    out: str | Path,
    *,
    splits: Sequence[str] = (),
    files: Files = "copy",
    skip_unreadable: bool = False,
) -> dict[str, DetectionDataset]:
    """Writes a dataset in COCO's layout, boxes as they are read: cut to the image, empty ones dropped.

    Args:
        source: as in `open_dataset`.
        out: the folder to make.
        splits: which splits; all by default. A source without splits becomes `train`.
        files: copy the images, or link to them.
        skip_unreadable: leave out images that cannot be decoded.

    Returns:
        What was written, by split.

    Raises:
        UserError: the source cannot be read, or `out` is in use.
    """
    found = {
        "train" if split == ANY else split: open_dataset(
            source, split, skip_unreadable=skip_unreadable, details=True
        )
        for split in splits or splits_of(source)
    }
    write_coco(found, Path(out), files)
    return found
