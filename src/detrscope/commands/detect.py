"""Detect in images and videos of any source and write the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from detrscope.commands.detection_files import DetectionWriter
from detrscope.commands.domain_warning import DomainWarning
from detrscope.console import log, progress
from detrscope.core.download import is_url
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.threshold_choice import check_threshold_form, find_thresholds
from detrscope.data.image_reader import ImageSource, read_image
from detrscope.inference.detector import LOAD_DEFAULTS, Detector, LoadOptions, open_detector
from detrscope.inference.image_detections import ImageDetections, detections_of_classes
from detrscope.inference.media.sources import MediaSource, expand_media_sources, warn_of_other_media_frames
from detrscope.inference.media.video import Video, VideoFrame

if TYPE_CHECKING:
    from rich.progress import Progress

DetectIn = Callable[..., ImageDetections]  # image, source and, in a video, the frame


def detect(
    model: str | Path | Detector,
    sources: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
    *,
    threshold: float | str = 0.7,
    show_names: Sequence[str] = (),
    out: str | Path | None = None,
    image_format: str = "png",
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> list[ImageDetections]:
    """Detect in files, folders, globs, URLs, arrays and videos.

    A named source that cannot be read is an error before anything is written. Unreadable files in a folder or behind a
    glob are skipped with a warning.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`.
        sources: a file, folder, glob, URL, array ..., or a list of these.
        threshold: minimum score, 0..1, or a goal such as "precision=0.9"; see `Detector.detect`.
        show_names: class names to keep; all classes where empty.
        out: folder for an image (or an mp4 and a JSON-lines file of frames) per source, `detections.json` and
            `detections.csv`; None writes nothing.
        image_format: png, jpg, webp, svg or pdf.
        load_options: how to load a model that is given by name.

    Returns:
        The detections in each image and in each frame of a video.

    Raises:
        UserError: a wrong argument, or a named source that cannot be read.
        WorkFailed: nothing in a folder could be read.
    """
    check_threshold_form(threshold)
    todo = [
        _checked(s) for s in expand_media_sources(sources if isinstance(sources, list | tuple) else [sources])
    ]
    detector = open_detector(model, load_options)
    classes = detector.card.classes
    thresholds = find_thresholds(threshold, detector.card.thresholds, classes)
    if thresholds.note:
        log.info(thresholds.note)
    writer = None if out is None else DetectionWriter(Path(out), image_format, classes.names, todo)
    names = {classes.names[classes.index_of_name(name)] for name in show_names}
    domain = DomainWarning(model, load_options.weights)
    notes = {source.stem: domain.note(source.content, source.name) for source in todo}
    domain.warn()

    def detect_in(image: Tensor, source: MediaSource, frame: VideoFrame | None = None) -> ImageDetections:
        detections = replace(
            detections_of_classes(detector.detect(image, thresholds.values), names), source=source.name
        )
        index, time = (None, None) if frame is None else (frame.index, round(float(frame.time), 6))
        return ImageDetections(source.name, detections, index, time, notes[source.stem])

    results: list[ImageDetections] = []
    skipped = 0
    with progress() as bar:
        task = bar.add_task("detecting", total=len(todo))
        for source in todo:
            try:
                run = _in_video if source.is_video else _in_image
                results += run(source, detect_in, writer, bar)
            except UserError as error:
                if source.named:
                    raise
                skipped += 1
                log.warning(f"skipped: {error}")
            bar.advance(task)
    if skipped == len(todo):
        raise WorkFailed(f"none of the {skipped} images and videos could be read")
    if skipped:
        log.warning(f"{skipped} of {len(todo)} images and videos could not be read and were skipped")
    if writer:
        writer.write_tables(results)
    return results


def _checked(source: MediaSource) -> MediaSource:
    """Return a source after reading it once if it was named: errors come before any work, a URL is read once."""
    if not source.named:
        return source
    if source.is_video:
        with Video(str(source.content)) as video:
            next(video.frames())
        return source
    image = read_image(source.content)
    return replace(source, content=image) if is_url(source.content) else source


def _in_image(
    source: MediaSource, detect_in: DetectIn, writer: DetectionWriter | None, bar: Progress
) -> list[ImageDetections]:
    image = read_image(source.content)
    warn_of_other_media_frames(source)
    result = detect_in(image, source)
    if writer:
        writer.write_image(source, image, result)
    return [result]


def _in_video(
    source: MediaSource, detect_in: DetectIn, writer: DetectionWriter | None, bar: Progress
) -> list[ImageDetections]:
    """Detect frame by frame; output files appear when the last frame is done."""
    results: list[ImageDetections] = []
    with ExitStack() as stack:
        video = stack.enter_context(Video(str(source.content)))
        task = bar.add_task(Path(source.name).name, total=video.length)
        stack.callback(bar.remove_task, task)
        write = stack.enter_context(writer.open_video(source, video.rate)) if writer else None
        for frame in video.frames():
            results.append(detect_in(frame.image, source, frame))
            if write:
                write(frame, results[-1])
            bar.advance(task)
        if losses := video.losses():
            log.warning("%s", losses)
    return results
