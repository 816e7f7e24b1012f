"""Detect in a pipeline of threads: read, run the model, write; results come one by one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType

from detrscope.commands.detection_files import DetectionFiles
from detrscope.console import log, progress
from detrscope.core.attention_map import AttentionMap
from detrscope.core.errors import WorkFailed
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Detections
from detrscope.inference.frame_detector import DetectedFrame, FrameDetector
from detrscope.inference.image_detections import ImageDetections, detections_of_classes
from detrscope.inference.media.options import MediaOptions
from detrscope.inference.media.pipeline import Pipeline, StageTime
from detrscope.inference.media.reader import MediaFrame, MediaInfo, MediaReader, SourceEnd
from detrscope.inference.media.sources import MediaSource
from detrscope.inference.media.tracker import Track, Tracker
from detrscope.lens.maps import map_of_cross_attention

BATCHES, RESULTS = 2, 64  # capacity of the queues between stages, and behind the last
MOST_TRACKS = 1000  # of the last ones that are remembered; files have all of them


@dataclass(frozen=True)
class EndedTrack:
    """A track of a source that has ended."""

    source: str
    track: Track


@dataclass(frozen=True)
class ShownClasses:
    """Names of classes: those to keep (all where empty), and those whose attention is drawn."""

    kept: frozenset[str]
    attention: frozenset[str]


class DetectionStream(Iterator[ImageDetections]):
    """Iterator over the detections in each image and frame, in order; a context manager that ends the work.

    Reading, the model and writing run in threads of their own, a few batches ahead. What has been iterated over is not
    kept. Where the block is left early, such as by Ctrl-C, a stream (but not a video) ends there and its files are
    completed; otherwise files that are not complete are removed.

    Attributes:
        sources: all images, videos and streams.
        position: number of sources that are done.
        info: what the current video says about itself; None for an image.
        frames: number of results so far.
        seconds: time until the last of them.
        cpu_seconds: CPU time of the process until then.
        tracks: the last tracks that ended.
        track_count: number of all tracks that ended.
    """

    def __init__(
        self,
        sources: Sequence[MediaSource],
        detector: FrameDetector,
        classes: ShownClasses,
        options: MediaOptions,
        files: DetectionFiles | None,
        notes: Mapping[str, str],
    ) -> None:
        self.sources, self.position, self.frames = tuple(sources), 0, 0
        self.info: MediaInfo | None = None
        self.tracks: deque[EndedTrack] = deque(maxlen=MOST_TRACKS)
        self.track_count = 0
        self._failures: list[WorkFailed] = []
        self._skipped = 0
        self._started = time.perf_counter(), time.process_time()
        self.seconds = self.cpu_seconds = 0.0
        self._reader = reader = MediaReader(sources, detector.prepare, detector.batch_size, options)
        writer = _FrameWriter(classes, options.track, files, notes)
        self._pipeline = Pipeline(
            (
                ("reading", lambda _: reader.batches()),
                ("model", lambda items: _detect(detector, items)),
                ("writing", writer.results),
            ),
            (BATCHES, BATCHES, RESULTS),
        )
        self._reader.behind = self._pipeline.has_work_waiting

    def __enter__(self) -> DetectionStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None and self.is_live:
                self._pipeline.end()
                for _ in self:
                    pass
        finally:
            self._pipeline.close()

    def __del__(self) -> None:
        if hasattr(self, "_pipeline"):
            self._pipeline.close()

    def __next__(self) -> ImageDetections:
        for item in self._pipeline:
            if isinstance(item, SourceEnd):
                self._end_source(item)
            elif isinstance(item, EndedTrack):
                self.tracks.append(item)
                self.track_count += 1
            else:
                result: ImageDetections
                result, self.info = item
                self.frames += 1
                self.seconds = time.perf_counter() - self._started[0]
                self.cpu_seconds = time.process_time() - self._started[1]
                return result
        self._finish()
        raise StopIteration

    @property
    def is_live(self) -> bool:
        """Return whether the current source is a stream, which may have no end."""
        current = self.sources[min(self.position, len(self.sources) - 1)]
        return current.kind == "stream"

    @property
    def times(self) -> tuple[StageTime, ...]:
        """How long reading, the model and writing took so far."""
        return self._pipeline.times

    def summary(self) -> str:
        """Return frames, seconds, frames a second and how busy each stage was, in one line."""
        is_video = any(source.is_video for source in self.sources)
        noun = f"{'frame' if is_video else 'image'}{'' if self.frames == 1 else 's'}"
        seconds = max(self.seconds, 1e-9)
        busy = ", ".join(f"{stage.name} {stage.busy / seconds:.0%}" for stage in self.times)
        return (
            f"{self.frames} {noun} in {seconds:.1f} s: {self.frames / seconds:.1f} {noun} a second; "
            f"share of this time: {busy}"
        )

    def _end_source(self, end: SourceEnd) -> None:
        self.position += 1
        self.info = None
        if end.losses:
            log.warning("%s", end.losses)
        if isinstance(end.error, WorkFailed):
            self._failures.append(end.error)
        elif end.error is not None:
            self._skipped += 1
            log.warning(f"skipped: {end.error}")

    def _finish(self) -> None:
        """Report what was left out.

        Raises:
            WorkFailed: nothing could be read, or not all of a stream.
        """
        skipped, self._skipped = self._skipped, 0
        if skipped == len(self.sources):
            raise WorkFailed(f"none of the {skipped} images and videos could be read")
        if skipped:
            log.warning(
                f"{skipped} of {len(self.sources)} images and videos could not be read and were skipped"
            )
        dropped, self._reader.dropped = self._reader.dropped, 0
        if dropped:
            log.warning("%d frames left out, which came faster than they could be worked on", dropped)
        if self._failures:
            raise self._failures.pop(0)


def with_progress(stream: DetectionStream) -> Iterator[ImageDetections]:
    """Yield the detections of a stream beside a progress bar with frames a second."""
    with progress() as bar:
        task = bar.add_task("detecting", total=len(stream.sources))
        current = None
        for result in stream:
            bar.update(task, completed=stream.position)
            if current is not None and (stream.info is None or current[0] != stream.position):
                bar.remove_task(current[1])
                current = None
            if current is None and stream.info is not None:
                length = stream.info.length
                current = stream.position, bar.add_task(result.source, total=length, unit="frames/s")
            yield result
            if current is not None:
                bar.advance(current[1])


def _detect(
    detector: FrameDetector, items: Iterator[list[MediaFrame] | SourceEnd]
) -> Iterator[list[DetectedFrame] | SourceEnd]:
    for item in items:
        yield item if isinstance(item, SourceEnd) else detector.detect(item)


class _FrameWriter:
    """The last stage: tracks, draws and writes.

    Args:
        classes: classes to keep, and those whose attention is drawn.
        track: follow objects through videos.
        files: output folder, if any.
        notes: warning about the detections of each source, by its stem.
    """

    def __init__(
        self, classes: ShownClasses, track: bool, files: DetectionFiles | None, notes: Mapping[str, str]
    ) -> None:
        self._classes, self._track, self._files, self._notes = classes, track, files, notes
        self._tracker: Tracker | None = None

    def results(
        self, items: Iterator[list[DetectedFrame] | SourceEnd]
    ) -> Iterator[tuple[ImageDetections, MediaInfo | None] | EndedTrack | SourceEnd]:
        """Yield the results of each frame, each track that has ended, and the end of each source."""
        source = ""
        with self._files or nullcontext() as files:
            for item in items:
                if isinstance(item, SourceEnd):
                    yield from self._end_tracks(source, files, all_=True)
                    if files:
                        files.end_source()
                    self._tracker = None
                    yield item
                    continue
                for found in item:
                    source = found.frame.source.name
                    yield self._result(found, files), found.frame.info
                    yield from self._end_tracks(source, files)
            yield from self._end_tracks(source, files, all_=True)  # of a stream that was interrupted

    def _result(self, found: DetectedFrame, files: DetectionFiles | None) -> ImageDetections:
        frame, video = found.frame, found.frame.video
        detections = detections_of_classes(found.detections, self._classes.kept)
        if self._track and video is not None and frame.info is not None and found.weaker is not None:
            self._tracker = self._tracker or Tracker(frame.info.rate)
            weaker = detections_of_classes(found.weaker, self._classes.kept)
            detections = self._tracker.update(detections, weaker, video.index, video.time)
        index, when = (None, None) if video is None else (video.index, round(float(video.time), 6))
        note = self._notes[frame.source.stem]
        result = ImageDetections(frame.source.name, detections, index, when, note)
        if files is not None:
            files.write(frame, result, self._attention(found.trace, detections))
        return result

    def _attention(self, trace: TraceData | None, detections: Detections) -> AttentionMap | None:
        """Return the mean attention of the chosen classes' detections; None where there are none."""
        rows = zip(detections.names, detections.query_ids.tolist(), strict=True)
        queries = sorted({query for name, query in rows if name in self._classes.attention})
        if trace is None or not queries:
            return None
        return map_of_cross_attention(trace, queries)

    def _end_tracks(
        self, source: str, files: DetectionFiles | None, *, all_: bool = False
    ) -> Iterator[EndedTrack]:
        if self._tracker is None:
            return
        tracks = [*self._tracker.ended(), *(self._tracker.close() if all_ else ())]
        if files:
            files.write_tracks(tracks)
        yield from (EndedTrack(source, track) for track in tracks)
