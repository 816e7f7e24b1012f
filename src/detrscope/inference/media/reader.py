"""Read sources into batches of frames that are ready for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from detrscope.core.errors import UserError, WorkFailed
from detrscope.data.image_reader import read_image
from detrscope.inference.media.options import MediaOptions
from detrscope.inference.media.sources import MediaSource, warn_of_other_media_frames
from detrscope.inference.media.stream import Stream
from detrscope.inference.media.video import Video, VideoFrame

Prepare = Callable[[Tensor], Tensor]  # uint8 [3, H, W] -> what the model takes of one image
BatchSize = Callable[[Tensor, Tensor], int]  # of an image, and of what `Prepare` made of it


@dataclass(frozen=True)
class MediaInfo:
    """What a video or stream says about itself."""

    rate: Fraction  # frames a second on average
    length: int | None  # frames


@dataclass(frozen=True)
class MediaFrame:
    """One image, or one frame of a video or stream."""

    source: MediaSource
    image: Tensor  # [3, H, W] uint8, upright
    prepared: Tensor  # what the model takes
    video: VideoFrame | None = None  # number and time
    info: MediaInfo | None = None

    @property
    def fits_with(self) -> tuple[object, ...]:
        """Return what frames of one batch have in common."""
        return self.source.stem, self.image.shape, self.prepared.shape


@dataclass(frozen=True)
class SourceEnd:
    """The end of a source.

    Attributes:
        source: the source.
        losses: what could not be read of it, in words.
        error: why it ended, where it could not be read (to the end).
    """

    source: MediaSource
    losses: str = ""
    error: UserError | WorkFailed | None = None


@dataclass
class MediaReader:
    """Reader of sources, one after the other.

    Attributes:
        sources: what to read.
        prepare: resizes and normalises an image.
        batch_size: most frames of a batch. In real time, frames are batched only while the model has work waiting.
        options: what is read of videos and streams.
        dropped: frames of real-time streams that came faster than they were worked on.
        behind: returns whether the model has work waiting. A frame that comes in real time, when a whole batch waits
            too, is dropped.
    """

    sources: Sequence[MediaSource]
    prepare: Prepare
    batch_size: BatchSize
    options: MediaOptions
    behind: Callable[[], bool] = lambda: False
    dropped: int = 0

    def batches(self) -> Iterator[list[MediaFrame] | SourceEnd]:
        """Yield lists of frames of one source and size, and the end of each source.

        Raises:
            UserError: a named image or video that cannot be read; those of folders and globs end with the error.
        """
        for source in self.sources:
            try:
                yield from self._batches_of(source)
            except UserError as error:
                if source.named:
                    raise
                yield SourceEnd(source, error=error)

    def _batches_of(self, source: MediaSource) -> Iterator[list[MediaFrame] | SourceEnd]:
        if source.kind == "image":
            image = read_image(source.content)
            warn_of_other_media_frames(source)
            yield [MediaFrame(source, image, self.prepare(image))]
            yield SourceEnd(source)
            return
        with self._open(source) as video:
            error: WorkFailed | None = None
            info = MediaInfo(video.rate, video.length)
            batch: list[MediaFrame] = []
            most, count = 1, 0
            real_time = source.address is not None and source.address.real_time
            frames = self._in_time(video.frames())
            while count != self.options.frames:
                try:
                    frame = next(frames, None)
                except WorkFailed as failure:  # what came before is worth keeping
                    frame, error = None, failure
                if frame is None:
                    break
                if real_time and len(batch) >= most and self.behind():
                    self.dropped += 1
                    continue
                count += 1
                ready = MediaFrame(source, frame.image, self.prepare(frame.image), frame, info)
                if batch and (len(batch) >= most or ready.fits_with != batch[0].fits_with):
                    yield batch
                    batch = []
                if not batch:
                    most = self.batch_size(ready.image, ready.prepared)
                batch.append(ready)
                if not self.behind() if real_time else len(batch) >= most:
                    yield batch
                    batch = []
            if batch:
                yield batch
            yield SourceEnd(source, video.losses(), error)

    def _open(self, source: MediaSource) -> Video | Stream:
        if source.address is None:
            return Video(str(source.content))
        return Stream(source.address, self.options.timeout, self.options.reconnects)

    def _in_time(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield the frames before the limit of seconds."""
        for frame in frames:
            if self.options.seconds is not None and frame.time >= self.options.seconds:
                return
            yield frame
