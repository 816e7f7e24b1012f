"""See inside a model on large images: the detections of all tiles, and their attention stitched together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from detrscope.commands.domain_warning import SHIPPED, DomainWarning
from detrscope.commands.figure_files import FigureFiles
from detrscope.commands.see import SeeResult, report_skipped_images
from detrscope.commands.trace_provider import is_trace_input
from detrscope.console import log, progress
from detrscope.core.errors import UserError
from detrscope.core.tiling import Tiling
from detrscope.core.trace_data import sites_of_kind
from detrscope.data.image_reader import ImageSource, read_image
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.media.sources import expand_media_sources, warn_of_other_media_frames
from detrscope.lens.captions import NOTE
from detrscope.trace_interface import Trace
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions, counted
from detrscope.views.tiles import draw_stitched, draw_tile_queries, stitched_data, tile_queries_data


def see_tiles(
    sources: ImageSource | list[ImageSource],
    model: str | Path | Detector | None = None,
    *,
    tiling: Tiling,
    options: ViewOptions = DEFAULT_OPTIONS,
    out: str | Path | None = None,
    image_format: str = "png",
    numbers: bool = False,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> list[SeeResult]:
    """Draw two figures of each image.

    `tiles` has all detections and their attention over the image, `tile-queries` each of the best in its tile.

    Args:
        sources: one or several images, folders, globs, URLs or arrays.
        model: variant, checkpoint, Hugging Face folder or id, or a `Detector`; None is the shipped model.
        tiling: size and overlap of the tiles.
        options: layer, head, level, merge, cells and threshold.
        out: folder; each image has its own in it. None keeps everything in memory.
        image_format: png, jpg, webp, svg or pdf.
        numbers: keep detections and maps as JSON values in `SeeResult.numbers`.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a wrong argument, a named source that cannot be read, or no detections in it.
        WorkFailed: nothing in a folder could be drawn.
    """
    _check_options(options)
    inputs = expand_media_sources(sources if isinstance(sources, list) else [sources])
    for source in inputs:
        if source.is_video or is_trace_input(source.content):
            kind = "video" if source.is_video else "trace"
            raise UserError(f"{source.name}: is a {kind}; tiles are of images")
    files = None if out is None else FigureFiles(Path(out), image_format, "none", False, len(inputs))
    detector = open_detector(model or SHIPPED, load_options)
    domain = DomainWarning(detector)
    results: list[SeeResult] = []
    with progress() as bar:
        task = bar.add_task("drawing", total=len(inputs))
        for source in inputs:
            try:
                image = read_image(source.content)
                warn_of_other_media_frames(source)
                notes = {NOTE: note} if (note := domain.note(source.content, source.name)) else {}
                traces = [
                    replace(trace, source=source.name, notes=notes)
                    for trace in trace_tiles(detector, image, tiling, options)
                ]
                stitched, queries = stitched_data(traces, options), tile_queries_data(traces, options)
            except UserError as error:
                if source.named:
                    raise
                log.warning(f"skipped: {Path(source.name).name}: {error}")
                continue
            figures = {"tiles": draw_stitched(stitched), "tile-queries": draw_tile_queries(queries)}
            result = SeeResult(source.name)
            if numbers:
                result.numbers = {"tiles": stitched.to_json(), "tile-queries": queries.to_json()}
            if files:
                result.files = {
                    name: files.write_figure(figure, source.stem, name) for name, figure in figures.items()
                }
            else:
                result.figures = figures
            results.append(result)
            bar.advance(task)
    domain.warn()
    report_skipped_images(len(results), len(inputs))
    return results


def trace_tiles(
    detector: Detector, image: Tensor, tiling: Tiling, options: ViewOptions = DEFAULT_OPTIONS
) -> list[Trace]:
    """Return a trace of each tile of an image, and of the image as a whole, with the layer that the options choose.

    Args:
        detector: the model.
        image: uint8 [3, H, W], upright.
        tiling: size and overlap of the tiles.
        options: layer of the cross-attention to record.

    Raises:
        UserError: the model has no such layer, or the image has too many tiles.
    """
    sites = sites_of_kind(detector.engine.sites, "decoder.cross")
    layer = -1 if options.layer is None else options.layer
    if not -len(sites) <= layer < len(sites):
        raise UserError(f"layer {layer}: this model has {counted(len(sites), 'layer of decoder.cross')}")
    height, width = image.shape[-2:]
    parts = tiling.of_model(detector.card.preprocessing).parts(height, width)
    with progress() as bar:
        task = bar.add_task("tracing tiles", total=len(parts))
        traces = []
        for part in parts:
            trace = detector.trace(image, sites[layer], crop_xyxy=part)
            # Each trace has a copy of the large image, and a tile that is not resized is a window of that copy.
            traces.append(replace(trace, original=image, image=trace.image.clone()))
            bar.advance(task)
    return traces


def _check_options(options: ViewOptions) -> None:
    """Refuse options that the figures of tiles do not use.

    Raises:
        UserError: such an option is given.
    """
    for name in ("queries", "points", "from_level", "against"):
        if getattr(options, name) != getattr(DEFAULT_OPTIONS, name):
            raise UserError(f"{name}: has no effect on the figures of tiles; leave it out")
    if options.head is not None and options.merge != DEFAULT_OPTIONS.merge:
        raise UserError(
            f"merge {options.merge}: has no effect on one head ({options.head}); leave one of them out"
        )
    if not 0 <= options.threshold <= 1:
        raise UserError(f"threshold {options.threshold}: expected a score between 0 and 1")
