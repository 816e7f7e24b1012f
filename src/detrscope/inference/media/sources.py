"""Expand what the user named into images, videos and streams: files, folders, globs, URLs, cameras, arrays."""

from __future__ import annotations

import glob
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image

from detrscope.console import log
from detrscope.core.download import is_url, shown_url, url_path
from detrscope.core.errors import UserError
from detrscope.data.image_files import SUFFIXES
from detrscope.data.image_reader import ImageSource
from detrscope.inference.media.address import StreamAddress, is_stream, stream_address

STEM_BYTES = 180  # of a name made from a source, so that a suffix and a number still fit
MULTIPLE_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # not MPO: the other images of a phone are previews
LISTED = 8  # most file names in a message
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
MediaKind = Literal["image", "video", "stream"]


@dataclass(frozen=True)
class MediaSource:
    """One image, video, or stream (which may have no end)."""

    content: ImageSource
    name: str  # in results
    stem: str  # for names of files made from it; unique
    kind: MediaKind
    named: bool  # named by the user itself, not by a folder or glob
    address: StreamAddress | None = None  # of a stream

    @property
    def is_video(self) -> bool:
        """Return whether it has frames: a video or a stream."""
        return self.kind != "image"


class UniqueNames:
    """Unique names for files made from sources, so that no file overwrites another."""

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}  # of each name, case folded

    def unused(self, name: str) -> str:
        """Return the name without invalid characters, shortened, and with a number where it is taken.

        Names that differ only in letter case or Unicode form are the same file on some systems.
        """
        plain = re.sub(r"[^\w.+ -]", "_", name)
        plain = plain.encode()[:STEM_BYTES].decode(errors="ignore").rstrip(" .") or "_"
        stem, key = plain, _folded(plain)
        while _folded(stem) in self._uses:
            self._uses[key] += 1
            stem = f"{plain}-{self._uses[key]}"
        self._uses[_folded(stem)] = 1
        return stem


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def expand_media_sources(
    sources: Iterable[ImageSource], stems: UniqueNames | None = None, *, before: int = 0
) -> list[MediaSource]:
    """Return all images, videos and streams in the order given; those of folders and globs sorted by name.

    A folder gives the images and videos directly in it; `folder/**/*.jpg` searches deeper. Anything that is not text
    or a path is an image in memory.

    Args:
        sources: files, folders, globs, URLs, cameras and streams (see `stream_address`), images.
        stems: names that are taken; extended.
        before: number of sources before these, for the numbering of images in memory.

    Raises:
        UserError: no such file, a folder or glob without an image or video, or a malformed name of a stream.
    """
    expanded: list[tuple[ImageSource, bool]] = []
    for source in sources:
        if (
            not isinstance(source, str | Path)
            or is_stream(source)
            or is_url(source)
            or Path(source).expanduser().is_file()
        ):
            expanded.append((source, True))
        elif Path(source).expanduser().is_dir():
            expanded += [(path, False) for path in _files_in(Path(source).expanduser())]
        elif any(sign in str(source) for sign in "*?["):
            expanded += [(path, False) for path in _files_matching(str(source))]
        else:
            raise UserError(f"{source}: no such file or folder")
    stems = stems or UniqueNames()
    return [
        _media_source(content, named, number, stems)
        for number, (content, named) in enumerate(expanded, start=before + 1)
    ]


def _media_source(content: ImageSource, named: bool, number: int, stems: UniqueNames) -> MediaSource:
    if not isinstance(content, str | Path):
        return MediaSource(content, f"image {number}", stems.unused(f"image-{number}"), "image", named)
    if is_stream(content):
        address = stream_address(str(content))
        stem = stems.unused(address.stem or f"stream-{number}")
        return MediaSource(content, address.name, stem, "stream", named, address)
    name = str(content)
    path = PurePosixPath(url_path(name)) if is_url(name) else Path(name)
    name = shown_url(name) if is_url(name) else name  # without passwords
    kind: MediaKind = "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image"
    return MediaSource(content, name, stems.unused(path.stem or f"image-{number}"), kind, named)


def warn_of_other_media_frames(source: MediaSource) -> None:
    """Warn that only the first frame of an animation, or the first page, is read."""
    if source.is_video or not isinstance(source.content, str | Path) or is_url(source.content):
        return
    try:
        with Image.open(Path(source.content).expanduser(), formats=MULTIPLE_FRAMES) as image:
            count = getattr(image, "n_frames", 1)
    except Exception:  # another format, or damaged, which the reader reports
        return
    if count > 1:
        log.warning(
            "%s: only the first of its %d frames is read; all frames of a video are", source.name, count
        )


def _files_in(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    paths = [p for p in files if _is_media(p)]
    others = [p.name for p in files if not _is_media(p)]
    listed = ", ".join(others[:LISTED]) + (", ..." if len(others) > LISTED else "")
    if paths and others:
        count = f"{len(others)} file{'' if len(others) == 1 else 's'}"
        log.info("%s: left out %s that are not images or videos: %s", folder, count, listed)
    if not paths:
        raise UserError(
            f"{folder}: no images or videos in this folder, {f'only {listed}' if others else 'no files at all'}; "
            f"to search its subfolders: '{folder}/**/*.jpg'"
        )
    return paths


def _files_matching(pattern: str) -> list[Path]:
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    paths = sorted(p for p in map(Path, matches) if _is_media(p) and p.is_file() and p.name[0] != ".")
    if not paths:
        raise UserError(
            f"{pattern}: no images or videos match; a video ends in {' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return paths


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES
