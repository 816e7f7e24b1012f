"""Which files belong to a dataset: images that the reader decodes, nothing hidden, nothing outside its folder."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from detrscope.core.errors import UserError

OUTSIDE = (
    "DETRSCOPE_ALLOW_OUTSIDE"  # of the environment: "1" reads files that a dataset names outside its folder
)
SYSTEM = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin", "lost+found"})
# Formats of pictures that Pillow decodes by itself; others start programs (EPS), or are no photographs (PDF, WMF).
PHOTOGRAPHS = frozenset(
    (
        "AVIF",
        "BMP",
        "DIB",
        "GIF",
        "JPEG",
        "JPEG2000",
        "MPO",
        "PCX",
        "PNG",
        "PPM",
        "QOI",
        "SGI",
        "TGA",
        "TIFF",
        "WEBP",
    )
)
_ENDINGS = Image.registered_extensions()  # loads Pillow's readers; which there are depends on its build
SUFFIXES = frozenset(ending for ending, name in _ENDINGS.items() if name in PHOTOGRAPHS)  # lower case
FORMATS = tuple(sorted(PHOTOGRAPHS & Image.OPEN.keys()))


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is the system's or a tool's and not the user's, by its own name."""
    return path.name.startswith(".") or path.name.casefold() in SYSTEM


def is_picture(path: Path) -> bool:
    """Whether a file's ending is that of an image that can be decoded."""
    return path.suffix.lower() in SUFFIXES


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder in the order of their names, hidden ones left out; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(Path(name)))
        for name in sorted(names):
            if not is_hidden(Path(name)):
                yield Path(parent, name)


def hidden_pictures(folder: Path) -> list[Path]:
    """Pictures directly in a folder that `walk` leaves out."""
    return sorted(p for p in folder.iterdir() if is_hidden(p) and is_picture(p))


def name_key(name: str) -> str:
    """What makes two names the same on some file systems: letter case and the form of Unicode do not count."""
    return unicodedata.normalize("NFC", name).casefold()


class Directory:
    """Finds files by names that may differ in letter case or Unicode form from those on the disk."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, list[Path]]] = {}

    def find(self, path: Path) -> Path | None:
        """The file of a name; else the only one whose name is the same but for case and form; else None."""
        try:
            if path.exists():
                return None if path.is_dir() else path
            if path.parent not in self._listings:
                listing: dict[str, list[Path]] = {}
                for other in path.parent.iterdir() if path.parent.is_dir() else ():
                    listing.setdefault(name_key(other.name), []).append(other)
                self._listings[path.parent] = listing
        except (OSError, ValueError):  # a name that the file system cannot have
            return None
        alike = self._listings[path.parent].get(name_key(path.name), [])
        return alike[0] if len(alike) == 1 and not alike[0].is_dir() else None


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path stays in a folder, by its name; links are followed wherever they lead."""
    if os.environ.get(OUTSIDE) == "1":
        return True
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def refuse_outside(path: Path, root: Path, where: object) -> None:
    """Check that a path that a dataset names stays in its folder.

    Raises:
        UserError: it does not.
    """
    if not is_inside(path, root):
        raise UserError(
            f"{where}: names {path}, outside of the dataset's folder {root}; move it there, or set {OUTSIDE}=1"
            " where you trust the dataset"
        )


def is_regular(path: Path) -> bool:
    """Whether a path is a file with an end: no device, pipe or folder."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
