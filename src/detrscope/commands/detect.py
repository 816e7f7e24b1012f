"""Detect in images, videos and streams of any source and write the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detrscope.commands.detection_files import DetectionFiles
from detrscope.commands.detection_stream import DetectionStream, ShownClasses, with_progress
from detrscope.commands.domain_warning import DomainWarning
from detrscope.console import log
from detrscope.core.download import is_url
from detrscope.core.errors import UserError
from detrscope.core.html import ResultList
from detrscope.core.threshold_choice import check_threshold_form, find_thresholds
from detrscope.core.tiling import Tiling
from detrscope.data.image_reader import ImageSource, read_image
from detrscope.inference.detector import Detector
from detrscope.inference.frame_detector import FrameDetector
from detrscope.inference.image_detections import ImageDetections
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.media.options import MEDIA_DEFAULTS, MediaOptions
from detrscope.inference.media.sources import MediaSource, expand_media_sources
from detrscope.inference.media.tracker import LOWEST_SCORE, check_tracker_installed
from detrscope.inference.media.video import Video


def detect(
    model: str | Path | Detector,
    sources: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
    *,
    threshold: float | str = 0.7,
    show_names: Sequence[str] = (),
    out: str | Path | None = None,
    image_format: str = "png",
    tiling: Tiling | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
    media: MediaOptions = MEDIA_DEFAULTS,
) -> list[ImageDetections]:
    """Detect in files, folders, globs, URLs, arrays, videos, and parts of streams.

    A named source that cannot be read is an error before anything is written. Unreadable files in a folder or behind a
    glob are skipped with a warning.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`.
        sources: a file, folder, glob, URL, array ..., or a list of these; a camera (`camera:0`) or stream
            (`rtsp://...`, `stream:URL`).
        threshold: minimum score, 0..1, or a goal such as "precision=0.9"; see `Detector.detect`.
        show_names: class names to keep; all classes where empty.
        out: folder for an image (or an mp4 and a JSON-lines file of frames) per source, `detections.json` and
            `detections.csv`; None writes nothing.
        image_format: png, jpg, webp, svg or pdf.
        tiling: divide each image and frame into overlapping tiles; None runs the model on them as a whole.
        load_options: how to load a model that is given by name.
        media: how much of a video or stream is read, and whether to track objects and draw attention.

    Returns:
        The detections in each image and in each frame of a video; `detect_stream` gives them one by one.

    Raises:
        UserError: a wrong argument, a named source that cannot be read, or a stream without limits.
        WorkFailed: nothing in a folder could be read, or a stream was lost.
    """
    for source in _expanded(sources):
        if source.kind == "stream" and not media.limited:
            raise UserError(
                f"{source.name}: a stream may have no end; give media=MediaOptions(frames=...) or seconds=, "
                "or iterate over detect_stream"
            )
    with detect_stream(
        model,
        sources,
        threshold=threshold,
        show_names=show_names,
        out=out,
        image_format=image_format,
        tiling=tiling,
        load_options=load_options,
        media=media,
    ) as stream:
        results = ResultList(with_progress(stream))
    if len(results) > 1:
        log.info("%s", stream.summary())
    return results


def detect_stream(
    model: str | Path | Detector,
    sources: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
    *,
    threshold: float | str = 0.7,
    show_names: Sequence[str] = (),
    out: str | Path | None = None,
    image_format: str = "png",
    tiling: Tiling | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
    media: MediaOptions = MEDIA_DEFAULTS,
) -> DetectionStream:
    """Detect as `detect` does, and give the results one by one: for long videos and streams without an end.

    Use it in a `with`, which ends the work and completes the files. The arguments are those of `detect`.

    Returns:
        An iterator over the detections in each image and frame; nothing that it has given is kept in memory.

    Raises:
        UserError: a wrong argument, or a named source that cannot be read; of a stream, when it is iterated over.
    """
    todo = _expanded(sources)
    check_threshold_form(threshold)
    _check_media_options(media, todo)
    if media.track:
        check_tracker_installed()
    todo = [_checked(source) for source in todo]
    detector = open_detector(model, load_options)
    classes = detector.card.classes
    thresholds = find_thresholds(threshold, detector.card.thresholds, classes)
    if thresholds.note:
        log.info(thresholds.note)
    shown = ShownClasses(
        *(
            frozenset(classes.names[classes.index_of_name(name)] for name in names)
            for names in (show_names, media.attention)
        )
    )
    lowest = LOWEST_SCORE if media.track else None
    frame_detector = FrameDetector(
        detector, thresholds.values, lowest=lowest, attention=bool(media.attention), tiling=tiling
    )
    files = None
    if out is not None:
        files = DetectionFiles(Path(out), image_format, classes.names, todo, tracked=media.track)
    domain = DomainWarning(detector)
    notes = {source.stem: domain.note(source.content, source.name) for source in todo}
    domain.warn()
    return DetectionStream(todo, frame_detector, shown, media, files, notes)


def _check_media_options(media: MediaOptions, sources: Sequence[MediaSource]) -> None:
    """Refuse options that none of the sources uses.

    Raises:
        UserError: the option, and what it is for.
    """
    videos = any(source.is_video for source in sources)
    streams = any(source.kind == "stream" for source in sources)
    for name, used, what in (
        *((name, videos, "videos and streams") for name in ("track", "frames", "seconds")),
        *((name, streams, "streams") for name in ("timeout", "reconnects")),
    ):
        if not used and getattr(media, name) != getattr(MEDIA_DEFAULTS, name):
            raise UserError(f"{name}: is for {what}, and none of the sources is one; leave it out")


def _expanded(sources: ImageSource | list[ImageSource] | tuple[ImageSource, ...]) -> list[MediaSource]:
    named = sources if isinstance(sources, list | tuple) else [sources]
    if not named:
        raise UserError("sources: expected at least one image or video, found none")
    return expand_media_sources(named)


def _checked(source: MediaSource) -> MediaSource:
    """Return a source after reading it once if it was named: errors come before any work, a URL is read once.

    A stream is opened when its turn comes: once.
    """
    if not source.named or source.kind == "stream":
        return source
    if source.kind == "video":
        with Video(str(source.content)) as video:
            next(video.frames())
        return source
    image = read_image(source.content)
    return replace(source, content=image) if is_url(source.content) else source
