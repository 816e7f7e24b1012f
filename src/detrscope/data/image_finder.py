"""Find the image files that a COCO annotation file names."""

from __future__ import annotations

import filecmp
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from detrscope.core.errors import UserError
from detrscope.data.image_files import (
    FileIndex,
    exists,
    image_subfolder,
    is_inside_dataset,
    refuse_images_outside,
)
from detrscope.data.splits import canonical_split

_SUBFOLDERS = ("images", "data")


class ImageFinder:
    """Search of the folders around an annotation file for its images.

    Folders named as the split come first, then those of the same canonical name (train2017/ for train), then those
    without the name of a split. In the first group that has a file of the name there may be only one, or copies of it.

    Args:
        path: Annotation file.
        images: Folder of the images, where it was given.
        single: Whether the file name contains no split; the folder name is used then.
    """

    def __init__(self, path: Path, images: Path | None, *, single: bool) -> None:
        own = path.parent
        in_annotations = own.name.casefold() == "annotations"
        base = own.parent if in_annotations else own
        split = re.sub("^instances_", "", path.stem, flags=re.IGNORECASE)
        if not in_annotations and single:
            base, split = own.parent, own.name
        given = [images] if images else []
        parents = [*given, base, image_subfolder(base, "images"), own, image_subfolder(own, "images")]
        named = [d for parent in dict.fromkeys(parents) if parent for d in _folders(parent)]
        exact = [d for d in named if d.name == split]
        similar = [d for d in named if canonical_split(d.name) == canonical_split(split) and d not in exact]
        shared = [*_with_subfolders(own), *_with_subfolders(base)]
        groups = [_flat(exact), _flat(similar), given, shared]
        self.groups = [list(dict.fromkeys(group)) for group in groups if group]
        siblings = in_annotations or canonical_split(own.name) in ("train", "val", "test")
        self.roots = [base if siblings else own, *given]
        self.annotations = path
        self.shared_names: set[str] = set()
        self.files = FileIndex()

    def expect(self, names: Iterable[str]) -> None:
        """Declare all names beforehand: a file is found by its last part only where no other image has the same."""
        counts = Counter(map(_last, dict.fromkeys(names)))
        self.shared_names = {last for last, count in counts.items() if count > 1}

    def __call__(self, file_name: str) -> Path:
        """Return the file of an image: by its whole name in any folder, else by the last part of it.

        Raises:
            UserError: the name leads out of the dataset's folder, or two different files have it.
        """
        name = file_name.replace("\\", "/")
        last = _last(name)
        wholes = dict.fromkeys((name, unquote(name)))  # Label Studio exports the names of URLs
        lasts = () if last in self.shared_names else dict.fromkeys((last, unquote(last)))
        for candidates in (wholes, lasts):
            for group in self.groups:
                if matches := self._matches(group, candidates):
                    return self._single(file_name, matches)
        missing = self.groups[0][0] / name
        if any(is_inside_dataset(missing, root) for root in self.roots):
            return missing
        if exists(missing):
            refuse_images_outside(missing, self.roots[0], self.annotations)
        return self.groups[0][0] / last

    def _matches(self, folders: list[Path], names: Iterable[str]) -> list[Path]:
        paths = [path for folder in folders for name in names if (path := self.files.find(folder / name))]
        inside = [path for path in paths if any(is_inside_dataset(path, root) for root in self.roots)]
        return list(dict.fromkeys(inside))

    def _single(self, file_name: str, matches: list[Path]) -> Path:
        first = matches[0]
        for other in matches[1:]:
            if not filecmp.cmp(first, other):
                raise UserError(
                    f"{self.annotations}: {file_name} may be {first} or {other}; remove the one that is not meant"
                )
        return first


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in sorted(parent.iterdir()) if path.is_dir()]
    except OSError:
        return []


def _with_subfolders(folder: Path) -> list[Path]:
    return [folder, *(inner for name in _SUBFOLDERS if (inner := image_subfolder(folder, name)))]


def _flat(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in _with_subfolders(folder)]
