"""The files of a dataset: images that the reader decodes, none hidden, none outside the dataset's folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from detrscope.core.errors import UserError

ALLOW_OUTSIDE = "DETRSCOPE_ALLOW_OUTSIDE"  # environment variable: "1" reads files outside a dataset's folder
HIDDEN = "hidden, or the system's"  # reason for a file that is left out
_SYSTEM = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin", "lost+found"})
# Formats that Pillow decodes by itself; others start programs (EPS), or are not photographs (PDF, WMF).
_PHOTOGRAPHS = frozenset(
    ["AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"]
)  # fmt: skip
_ENDINGS = Image.registered_extensions()  # loads Pillow's readers, which depend on its build
SUFFIXES = frozenset(ending for ending, name in _ENDINGS.items() if name in _PHOTOGRAPHS)  # lower case
FORMATS = tuple(sorted(_PHOTOGRAPHS & Image.OPEN.keys()))
# Unlike the methods of `Path`, these are False for names that no file system can have.
exists, is_folder, is_regular = os.path.exists, os.path.isdir, os.path.isfile


def is_hidden(path: Path) -> bool:
    """Return whether a file or folder belongs to the system or a tool, by its own name."""
    return path.name.startswith(".") or path.name.casefold() in _SYSTEM


def is_image_file(path: Path) -> bool:
    """Return whether a file has the suffix of an image that can be decoded."""
    return path.suffix.lower() in SUFFIXES


@dataclass
class FolderContents:
    """Paths below a folder by kind, each list sorted by name."""

    images: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)  # files and whole folders of the system or a tool
    links: list[Path] = field(default_factory=list)  # to folders; not followed, since they may form a cycle
    others: list[Path] = field(default_factory=list)

    def left_out(self, ignored: Collection[str] = ()) -> Iterator[tuple[Path, str]]:
        """Yield each path that is no image of the dataset, and why; other files of an `ignored` suffix are skipped."""
        yield from ((path, HIDDEN) for path in self.hidden)
        yield from ((path, "a link to a folder, which is not followed") for path in self.links)
        others = (path for path in self.others if path.suffix.lower() not in ignored)
        yield from ((path, "not the suffix of an image that can be read") for path in others)


def scan_folder(folder: Path) -> FolderContents:
    """Sort the files below a folder by kind."""
    contents = FolderContents()
    for parent, folders, names in os.walk(folder):
        contents.hidden += (Path(parent, name) for name in sorted(folders) if is_hidden(Path(name)))
        folders[:] = sorted(name for name in folders if not is_hidden(Path(name)))
        contents.links += (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        for path in (Path(parent, name) for name in sorted(names)):
            kind = contents.images if is_image_file(path) else contents.others
            (contents.hidden if is_hidden(path) else kind).append(path)
    return contents


def files_with_suffix(folder: Path, suffix: str) -> list[Path]:
    """Return what has a suffix directly in a folder or in a visible subfolder, sorted.

    Faster than `glob` where a folder has 100,000 other files.

    Args:
        folder: Folder to look into.
        suffix: Suffix in lower case, with its dot.
    """
    found: list[Path] = []

    def scan(path: str) -> list[str]:
        """Collect the files of one folder; return its visible subfolders."""
        inner = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.casefold().endswith(suffix):
                        found.append(Path(entry.path))
                    elif entry.is_dir() and not is_hidden(Path(entry.name)):
                        inner.append(entry.path)
        except (OSError, ValueError):
            return []
        return inner

    for path in scan(str(folder)):
        scan(path)
    return sorted(found)


def image_name_key(name: str) -> str:
    """Return a key that is equal for names that some file systems take for the same: case and Unicode form ignored."""
    return unicodedata.normalize("NFC", name).casefold()


class FileIndex:
    """Index of files by names that may differ in letter case or Unicode form from those on the disk.

    Each folder is listed once, so that thousands of names cost thousands of look-ups.
    """

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}  # of each listed folder, by `image_name_key`
        self._similar: dict[Path, Path | None] = {}  # by the name of a folder that does not exist

    def find(self, path: Path) -> Path | None:
        """Return the file of a name; else the only one with the same `image_name_key`; else None.

        Raises:
            UserError: several files have that `image_name_key`.
        """
        folder = self._folder(path.parent)
        if folder is None:
            return None
        names = self._names[folder].get(image_name_key(path.name), [])
        if path.name in names:
            return folder / path.name
        if len(names) > 1:
            raise UserError(
                f"{path}: may be {' or '.join(sorted(names))}; give them names that differ in more than letter"
                " case or accents' encoding"
            )
        return folder / names[0] if names else None

    def stems(self, folder: Path) -> dict[str, list[Path]]:
        """Return the images directly in a folder by the `image_name_key` of their stem."""
        stems: dict[str, list[Path]] = {}
        if listed := self._folder(folder):
            for path in sorted(listed / name for names in self._names[listed].values() for name in names):
                if is_image_file(path) and not is_hidden(path):
                    stems.setdefault(image_name_key(path.stem), []).append(path)
        return stems

    def _folder(self, folder: Path) -> Path | None:
        """Return a listed folder by name, or the only one of the same `image_name_key`; None where there is none."""
        if folder in self._names:
            return folder
        if folder in self._similar:
            return self._similar[folder]
        names: dict[str, list[str]] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        names.setdefault(image_name_key(entry.name), []).append(entry.name)
        except (OSError, ValueError):  # ValueError: a name with a NUL
            parent = self._folder(folder.parent) if folder.parent != folder else None
            similar = image_subfolder(parent, folder.name) if parent else None
            self._similar[folder] = self._folder(similar) if similar and similar != folder else None
            return self._similar[folder]
        self._names[folder] = names
        return folder


def image_subfolder(folder: Path, name: str) -> Path | None:
    """Return a folder by its name inside another one; else the only one with the same `image_name_key`; else None."""
    if is_folder(folder / name):
        return folder / name
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if image_name_key(e.name) == image_name_key(name) and e.is_dir()]
    except (OSError, ValueError):
        return None
    return folder / names[0] if len(names) == 1 else None


def is_inside_dataset(path: Path, root: Path) -> bool:
    """Return whether a path stays in a folder, by its name; links are followed wherever they lead."""
    if os.environ.get(ALLOW_OUTSIDE) == "1":
        return True
    inside, outer = (os.path.normcase(os.path.abspath(p)) for p in (path, root))
    return inside == outer or inside.startswith(outer.rstrip(os.sep) + os.sep)


def plain_path(path: Path) -> Path:
    """Return the path of a file without `..`, so that a file has one path; unchanged where links make that another."""
    plain = Path(os.path.normpath(path))
    try:
        return plain if plain == path or os.path.samefile(plain, path) else path
    except (OSError, ValueError):
        return path


def refuse_images_outside(path: Path, root: Path, where: object) -> None:
    """Check that a path that a dataset names stays in its folder.

    Raises:
        UserError: it does not.
    """
    if not is_inside_dataset(path, root):
        raise UserError(
            f"{where}: names {path}, outside of the dataset's folder {root}; move it there, or set {ALLOW_OUTSIDE}=1"
            " where you trust the dataset"
        )
