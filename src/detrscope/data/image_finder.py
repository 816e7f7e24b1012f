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
    plain_path,
    refuse_images_outside,
)
from detrscope.data.splits import canonical_split

MAX_NAME_LENGTH = 4096  # characters; no file system has longer paths
MAX_ENDS = 16  # parts of a name that are tried one after another
# What COCO, LVIS and Objects365 write before the name of the split.
_BEFORE_SPLIT = re.compile(r"^(instances|lvis_v[\d.]+|zhiyuan_objv\d|objects365(_v\d)?)_", re.IGNORECASE)
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
        split = _BEFORE_SPLIT.sub("", path.stem)
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
        self.shared_ends: set[str] = set()
        self.files = FileIndex()

    def expect(self, names: Iterable[str]) -> None:
        """Declare all names beforehand: a file is found by the end of its name only where no other has the same."""
        counts = Counter(end for name in dict.fromkeys(names) for end in _ends(name))
        self.shared_ends = {end for end, count in counts.items() if count > 1}

    def __call__(self, file_name: str) -> Path:
        """Return the file of an image: by its whole name in any folder, else by the end of it, the longest first.

        Raises:
            UserError: the name leads out of the dataset's folder, or two different files have it.
        """
        name = file_name.replace("\\", "/")
        ends = [end for end in _ends(name) if end not in self.shared_ends]
        for candidate in (name, *ends):
            names = dict.fromkeys((candidate, unquote(candidate)))  # Label Studio exports the names of URLs
            for group in self.groups:
                if matches := self._matches(group, names):
                    return self._single(file_name, matches)
        missing = self.groups[0][0] / name
        if any(is_inside_dataset(missing, root) for root in self.roots):
            return missing
        if exists(missing):
            refuse_images_outside(missing, self.roots[0], self.annotations)
        return self.groups[0][0] / name.rsplit("/", 1)[-1]

    def _matches(self, folders: list[Path], names: Iterable[str]) -> list[Path]:
        paths = [path for folder in folders for name in names if (path := self.files.find(folder / name))]
        inside = [path for path in paths if any(is_inside_dataset(path, root) for root in self.roots)]
        return list(dict.fromkeys(map(plain_path, inside)))

    def _single(self, file_name: str, matches: list[Path]) -> Path:
        first = matches[0]
        for other in matches[1:]:
            if not filecmp.cmp(first, other):
                raise UserError(
                    f"{self.annotations}: {file_name} may be {first} or {other}; remove the one that is not meant"
                )
        return first


def is_file_name(name: object) -> bool:
    """Return whether a value of an annotation file can be the name of an image."""
    return (
        isinstance(name, str)
        and bool(name.strip("./\\ "))
        and "\0" not in name
        and len(name) < MAX_NAME_LENGTH
    )


def _ends(name: str) -> list[str]:
    """Return the parts of a name behind its slashes, the longest first: images/v1/a.jpg is v1/a.jpg and a.jpg.

    Objects365 names images/v1/patch8/a.jpg what lies in train/patch8/a.jpg.
    """
    parts = name.replace("\\", "/").split("/")
    first = max(1, len(parts) - MAX_ENDS)
    return ["/".join(parts[i:]) for i in range(first, len(parts))] or parts


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in sorted(parent.iterdir()) if path.is_dir()]
    except OSError:
        return []


def _with_subfolders(folder: Path) -> list[Path]:
    return [folder, *(inner for name in _SUBFOLDERS if (inner := image_subfolder(folder, name)))]


def _flat(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in _with_subfolders(folder)]
