"""Convert a dataset of any readable format to a folder in COCO's layout, all splits at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.splits import ANY
from detrscope.data.write_coco import Files, write_coco


def convert_dataset(
    source: str | Path,
    out: str | Path,
    *,
    splits: Sequence[str] = (),
    files: Files = "copy",
    skip_unreadable: bool = False,
) -> dict[str, DetectionDataset]:
    """Write a dataset in COCO's layout, boxes as they are declared.

    Args:
        source: Dataset, as in `open_dataset`.
        out: Folder to make.
        splits: Splits to write; all by default. A source without splits becomes `train`.
        files: Whether to copy the images or link to them.
        skip_unreadable: Whether to leave out images that cannot be decoded.

    Returns:
        The datasets that were written, by split.

    Raises:
        UserError: the source cannot be read, or `out` is in use.
    """
    datasets = {
        "train" if split == ANY else split: open_dataset(
            source, split, skip_unreadable=skip_unreadable, details=True
        )
        for split in splits or splits_of(source)
    }
    write_coco(datasets, Path(out), files)
    return datasets
