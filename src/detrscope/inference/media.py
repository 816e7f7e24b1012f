"""What the user named, as pictures and clips: files, folders, globs, URLs, arrays."""

from __future__ import annotations

import glob
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrscope.console import log
from detrscope.core.download import is_url as is_url
from detrscope.core.download import shown_url, url_path
from detrscope.core.errors import UserError
from detrscope.data.image_files import SUFFIXES
from detrscope.data.image_reader import ImageSource

if TYPE_CHECKING:
    import av

STEM_BYTES = 180  # of a name made from a source, so that an ending and a number still fit
SEVERAL_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # not MPO: the others of a phone are previews
LISTED = 8  # runs of damaged frames that are named
MOST_FAILURES = 100  # of reading on end, before a video is given up
SLACK = 0.02  # of its length, by which a file may err about it
CLIP_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})


@dataclass(frozen=True)
class MediaSource:
    """One picture or clip to look at."""

    content: ImageSource
    name: str  # as it is reported
    stem: str  # for names of files made from it; unique
    is_clip: bool
    named: bool  # by the user, not found in a folder or by a glob


class UniqueNames:
    """Names for files made from sources, each given once, so that no file is written over another."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}  # how often each was asked for

    def unused(self, wanted: str) -> str:
        """Return the name with what may not be in one replaced, shortened, and a number behind it where it is taken.

        Names that differ in letter case or Unicode form only are the same file on some systems.
        """
        plain = re.sub(r"[^\w.+ -]", "_", wanted)
        plain = plain.encode()[:STEM_BYTES].decode(errors="ignore").rstrip(" .") or "_"
        stem, key = plain, _folded(plain)
        while _folded(stem) in self._given:
            self._given[key] += 1
            stem = f"{plain}-{self._given[key]}"
        self._given[_folded(stem)] = 1
        return stem


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def expand(
    sources: Iterable[ImageSource], stems: UniqueNames | None = None, *, before: int = 0
) -> list[MediaSource]:
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
    stems = stems or UniqueNames()
    return [
        _source(content, named, number, stems)
        for number, (content, named) in enumerate(found, start=before + 1)
    ]


def _source(content: ImageSource, named: bool, number: int, stems: UniqueNames) -> MediaSource:
    if not isinstance(content, str | Path):
        name, stem, is_clip = f"image {number}", f"image-{number}", False
    else:
        name = str(content)
        path = PurePosixPath(url_path(name)) if is_url(name) else Path(name)
        name = shown_url(name) if is_url(name) else name  # without what may be secret
        stem = path.stem or f"image-{number}"
        is_clip = path.suffix.lower() in CLIP_SUFFIXES
    return MediaSource(content, name, stems.unused(stem), is_clip, named)


def warn_of_other_frames(source: MediaSource) -> None:
    """Say that of an animation or of several pages only the first is looked at."""
    if source.is_clip or not isinstance(source.content, str | Path) or is_url(source.content):
        return
    try:
        with Image.open(Path(source.content).expanduser(), formats=SEVERAL_FRAMES) as image:
            count = getattr(image, "n_frames", 1)
    except Exception:  # another format, or damaged: whoever reads it says so
        return
    if count > 1:
        log.warning(
            "%s: only the first of its %d frames is looked at; a video would be read whole",
            source.name,
            count,
        )


def _inside(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    paths = [p for p in files if _is_known(p)]
    others = [p.name for p in files if not _is_known(p)]
    named = ", ".join(others[:LISTED]) + (", ..." if len(others) > LISTED else "")
    if paths and others:
        log.info(
            "%s: left out %s that are no pictures or videos: %s", folder, _counted(len(others), "file"), named
        )
    if not paths:
        raise UserError(
            f"{folder}: no pictures or videos in this folder, {f'only {named}' if others else 'no files at all'}; "
            f"for those in folders below: '{folder}/**/*.jpg'"
        )
    return paths


def _matching(pattern: str) -> list[Path]:
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    paths = sorted(p for p in map(Path, matches) if _is_known(p) and p.is_file() and p.name[0] != ".")
    if not paths:
        raise UserError(
            f"{pattern}: no pictures or videos match; a video ends in {' '.join(sorted(CLIP_SUFFIXES))}"
        )
    return paths


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | CLIP_SUFFIXES


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a clip."""

    index: int
    time: Fraction  # seconds since the first frame
    image: Tensor  # [3, H, W] uint8, upright


class Video:
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
        self._stream.thread_type = "SLICE"  # several frames at once would lose good ones beside a damaged one

    def __enter__(self) -> Video:
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

    def frames(self) -> Iterator[VideoFrame]:
        """Yield every frame that can be decoded, in order; `losses` says afterwards what was left out.

        A damaged frame is left out and the next ones keep their numbers and times.

        Raises:
            UserError: no frame can be decoded.
        """
        self.damaged: list[int] = []
        self.flawed: list[int] = []
        self._end = Fraction(0)
        start, lost, shown = Fraction(0), [], 0  # lost: times of damaged packets, where they have one
        for packet in self._packets():
            frames, error = _decoded(packet)
            if error:
                lost.append(_time_of(packet))
            for frame in frames:
                time = _time_of(frame)
                if time is None:
                    time = (shown + len(lost)) / self.rate
                start = time if shown == 0 else start
                index = shown + sum(other is None or other < time for other in lost)
                if frame.is_corrupt:
                    self.flawed.append(index)
                yield VideoFrame(index, time - start, _upright(frame))
                shown += 1
                self._end = time - start + 1 / self.rate
        if shown == 0:
            raise UserError(
                f"{self.path}: no frame of it can be decoded{' (all are damaged)' if lost else ''}"
            )
        times = sorted(time for time in lost if time is not None)
        step = 1 / self.rate
        self.damaged = [max(0, round((time - start) / step)) for time in times] + [-1] * (
            len(lost) - len(times)
        )
        self._shown = shown

    def losses(self) -> str:
        """Return what the last pass over `frames` had to leave out, in words; empty where that is nothing."""
        said = []
        if self.damaged:
            said.append(f"{_counted(len(self.damaged), 'damaged frame')} left out{_listed(self.damaged)}")
        if self.flawed:
            said.append(f"{_counted(len(self.flawed), 'frame')} decoded with flaws{_listed(self.flawed)}")
        length = self._seconds()
        missing = round((length - self._end) * self.rate) if length is not None else 0
        if length is not None and missing > max(1.0, float(length * self.rate) * SLACK):
            said.append(
                f"its frames end at {float(self._end):.2f} s of {float(length):.2f} s: "
                f"about {_counted(missing, 'frame')} cut off or damaged beyond reading"
            )
        return f"{self.path}: {self._shown} frames read; {'; '.join(said)}" if said else ""

    def _packets(self) -> Iterator[av.Packet]:
        """Yield the packets of the video, going on behind what cannot be read."""
        import av

        failures = 0
        while failures < MOST_FAILURES:
            try:
                for packet in self._container.demux(self._stream):
                    yield packet
                    failures = 0
                return
            except av.FFmpegError:
                failures += 1

    def _seconds(self) -> Fraction | None:
        """Return how long the file says its video lasts; None where it does not say."""
        stream = self._stream
        if stream.duration and stream.time_base:
            return Fraction(stream.duration * stream.time_base)
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska's
        if tag:
            hours, minutes, seconds = tag.groups()
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        alone = len(self._container.streams) == 1  # else it may be the sound that lasts longer
        return Fraction(self._container.duration, 1_000_000) if alone and self._container.duration else None


def _decoded(packet: av.Packet) -> tuple[list[av.VideoFrame], bool]:
    """Return the frames that a packet completes, and whether it is damaged."""
    import av

    try:
        return [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)], False
    except av.FFmpegError:
        return [], True


def _time_of(part: av.Packet | av.VideoFrame) -> Fraction | None:
    """Return the seconds at which a packet or frame is shown, where it knows."""
    if part.pts is None or part.time_base is None:
        return None
    return Fraction(part.pts * part.time_base)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(numbers: list[int]) -> str:
    """Return such as ` (number 20 to 22, 31)`; nothing where the numbers are not known."""
    known = sorted({n for n in numbers if n >= 0})
    spans: list[list[int]] = []
    for number in known:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    parts = [f"{first}" if first == last else f"{first} to {last}" for first, last in spans]
    shown = parts[:LISTED] + (["..."] if len(parts) > LISTED else [])
    return f" (number {', '.join(shown)})" if parts else ""


def _upright(frame: av.VideoFrame) -> Tensor:
    """Pixels turned as the camera says they must be."""
    pixels = frame.to_ndarray(format="rgb24")  # [H, W, 3]
    turned = np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90)))
    return torch.from_numpy(turned).permute(2, 0, 1)  # [3, H, W]
