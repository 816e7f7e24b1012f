"""What the user named, as pictures and clips: files, folders, globs, URLs, arrays."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.data.files import SUFFIXES
from detrscope.data.images import ImageSource

if TYPE_CHECKING:
    import av

CLIP_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})


@dataclass(frozen=True)
class Source:
    """One picture or clip to look at."""

    content: ImageSource
    name: str  # as it is reported
    stem: str  # for names of files made from it; unique
    is_clip: bool
    named: bool  # by the user, not found in a folder or by a glob


class Stems:
    """Names for files made from sources, each given once, so that no file is written over another."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}  # how often each was asked for

    def unused(self, wanted: str) -> str:
        """The name with what may not be in one replaced, and a number behind it where it is taken."""
        stem = plain = re.sub(r"[^\w.+ -]", "_", wanted)
        while stem in self._given:
            self._given[plain] += 1
            stem = f"{plain}-{self._given[plain]}"
        self._given[stem] = 1
        return stem


def expand(sources: Iterable[ImageSource], stems: Stems | None = None, *, before: int = 0) -> list[Source]:
    """Everything to look at, in the order given; folders and globs sorted by name.

    A folder gives the pictures and clips directly in it; `folder/**/*.jpg` looks deeper. Anything that is not
    text is an image in memory.

    Args:
        sources: files, folders, globs, URLs, images.
        stems: where names are given elsewhere too.
        before: how many sources there are before these, which images in memory are numbered after.

    Raises:
        UserError: no such file, or a folder or glob without a picture or clip.
    """
    found: list[tuple[ImageSource, bool]] = []
    for source in sources:
        if not isinstance(source, str | Path) or is_url(source) or Path(source).expanduser().is_file():
            found.append((source, True))
        elif Path(source).expanduser().is_dir():
            found += [(path, False) for path in _inside(Path(source).expanduser())]
        elif any(sign in str(source) for sign in "*?["):
            found += [(path, False) for path in _matching(str(source))]
        else:
            raise UserError(f"{source}: no such file or folder")
    stems = stems or Stems()
    return [
        _source(content, named, number, stems)
        for number, (content, named) in enumerate(found, start=before + 1)
    ]


def _source(content: ImageSource, named: bool, number: int, stems: Stems) -> Source:
    if not isinstance(content, str | Path):
        name, stem, is_clip = f"image {number}", f"image-{number}", False
    else:
        name = str(content)
        path = PurePosixPath(unquote(urlsplit(name).path)) if is_url(name) else Path(name)
        stem = path.stem or f"image-{number}"
        is_clip = path.suffix.lower() in CLIP_SUFFIXES
    return Source(content, name, stems.unused(stem), is_clip, named)


def is_url(source: ImageSource) -> bool:
    """Whether the source is an http(s) address."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _inside(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.iterdir() if _is_known(p) and p.is_file())
    if not paths:
        raise UserError(
            f"{folder}: no pictures or videos in this folder ({_endings()}); deeper ones: '{folder}/**/*.jpg'"
        )
    return paths


def _matching(pattern: str) -> list[Path]:
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    paths = sorted(p for p in map(Path, matches) if _is_known(p) and p.is_file())
    if not paths:
        raise UserError(f"{pattern}: no pictures or videos match ({_endings()})")
    return paths


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | CLIP_SUFFIXES


def _endings() -> str:
    return " ".join(sorted(SUFFIXES | CLIP_SUFFIXES))


@dataclass(frozen=True)
class Frame:
    """One frame of a clip."""

    index: int
    time: Fraction  # seconds since the first frame
    image: Tensor  # [3, H, W] uint8, upright


class Clip:
    """A video file that is being read; use it in a `with`."""

    def __init__(self, path: str | Path) -> None:
        """Opens the file.

        Raises:
            UserError: it cannot be read as a video.
        """
        import av

        self.path = str(path)
        try:
            self._container = av.open(self.path)
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{path}: cannot be read as a video ({error.strerror})") from None
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{path}: has no video in it")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def rate(self) -> Fraction:
        """Frames per second on average."""
        return Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)

    @property
    def length(self) -> int | None:
        """How many frames the file says it has."""
        return self._stream.frames or None

    def frames(self) -> Iterator[Frame]:
        """Every frame in order.

        Raises:
            UserError: the file is damaged; the frame is named.
        """
        import av

        start = Fraction(0)
        index = 0
        try:
            for frame in self._container.decode(self._stream):
                time = index / self.rate
                if frame.pts is not None and frame.time_base is not None:
                    time = frame.pts * frame.time_base
                start = time if index == 0 else start
                yield Frame(index, time - start, _upright(frame))
                index += 1
        except av.FFmpegError as error:
            raise UserError(f"{self.path}: damaged after frame {index} ({error.strerror})") from None
        if index == 0:
            raise UserError(f"{self.path}: has no frames")


def _upright(frame: av.VideoFrame) -> Tensor:
    """Pixels turned as the camera says they must be."""
    pixels = frame.to_ndarray(format="rgb24")  # [H, W, 3]
    turned = np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90)))
    return torch.from_numpy(turned).permute(2, 0, 1)  # [3, H, W]
