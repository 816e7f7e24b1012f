"""Which files belong to a dataset: images that the reader decodes, nothing hidden, nothing outside its folder."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
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


@dataclass
class Found:
    """What lies below a folder, each list in the order of the names."""

    pictures: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)  # files and whole folders of the system or a tool
    links: list[Path] = field(default_factory=list)  # to folders: not followed, so that none is met for ever
    others: list[Path] = field(default_factory=list)  # of endings that are no picture's

    def left_out(self, ignored: Collection[str] = ()) -> Iterator[tuple[Path, str]]:
        """Each path that is no image of the dataset, and why; other files of an `ignored` ending are no surprise."""
        yield from ((path, "hidden, or the system's") for path in self.hidden)
        yield from ((path, "a link to a folder, which is not followed") for path in self.links)
        others = (path for path in self.others if path.suffix.lower() not in ignored)
        yield from ((path, "not the ending of a picture that can be read") for path in others)


def scan(folder: Path) -> Found:
    """Sort the files below a folder."""
    found = Found()
    for parent, folders, names in os.walk(folder):
        found.hidden += (Path(parent, name) for name in sorted(folders) if is_hidden(Path(name)))
        folders[:] = sorted(name for name in folders if not is_hidden(Path(name)))
        found.links += (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        for name in sorted(names):
            path = Path(parent, name)
            part = found.hidden if is_hidden(path) else found.pictures if is_picture(path) else found.others
            part.append(path)
    return found


def name_key(name: str) -> str:
    """What makes two names the same on some file systems: letter case and the form of Unicode do not count."""
    return unicodedata.normalize("NFC", name).casefold()


class Directory:
    """Finds files by names that may differ in letter case or Unicode form from those on the disk.

    Each folder is listed once, so that thousands of names cost thousands of look-ups.
    """

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, list[str]]] = {}
        self._exact: dict[Path, set[str]] = {}
        self._alike: dict[Path, Path | None] = {}  # of folders that are not there by exactly that name

    def find(self, path: Path) -> Path | None:
        """The file of a name; else the only one whose name is the same but for case and form; else None.

        Raises:
            UserError: several files have that name but for case and form.
        """
        folder = self._folder(path.parent)
        if folder is None:
            return None
        if path.name in self._exact[folder]:
            return folder / path.name
        alike = self._listings[folder].get(name_key(path.name), [])
        if len(alike) > 1:
            raise UserError(
                f"{path}: may be {' or '.join(sorted(alike))}; give them names that differ in more than letter"
                " case or accents' encoding"
            )
        return folder / alike[0] if alike else None

    def stems(self, folder: Path) -> dict[str, list[Path]]:
        """The pictures directly in a folder by the key of their name without its ending."""
        listed = self._folder(folder)
        stems: dict[str, list[Path]] = {}
        for name in sorted(self._exact[listed]) if listed else ():
            path = (listed or folder) / name
            if is_picture(path) and not is_hidden(path):
                stems.setdefault(name_key(path.stem), []).append(path)
        return stems

    def _folder(self, folder: Path) -> Path | None:
        """A folder that was listed, by its name or the only one that is alike; None where there is none."""
        if folder in self._listings:
            return folder
        if folder in self._alike:
            return self._alike[folder]
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if not entry.is_dir()]
        except (OSError, ValueError):  # ValueError: a name with a NUL
            parent = self._folder(folder.parent) if folder.parent != folder else None
            alike = child(parent, folder.name) if parent else None
            self._alike[folder] = self._folder(alike) if alike and alike != folder else None
            return self._alike[folder]
        listing: dict[str, list[str]] = {}
        for name in names:
            listing.setdefault(name_key(name), []).append(name)
        self._listings[folder], self._exact[folder] = listing, set(names)
        return folder


def child(folder: Path, name: str) -> Path | None:
    """The folder of a name inside another one; else the only one that is alike but for letter case and Unicode form."""
    if is_folder(folder / name):
        return folder / name
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if name_key(e.name) == name_key(name) and e.is_dir()]
    except (OSError, ValueError):
        return None
    return folder / names[0] if len(names) == 1 else None


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


def exists(path: Path) -> bool:
    """Whether there is something of that name; False for names that no file system can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; False for names that no file system can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_regular(path: Path) -> bool:
    """Whether a path is a file with an end: no device, pipe or folder."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
