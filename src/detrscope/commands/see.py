"""See inside a model: all figures of an image in one folder, with its trace and its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from detrscope.commands.domain_warning import SHIPPED, DomainWarning
from detrscope.commands.figure_files import REPORT, FigureFiles, TraceFormat
from detrscope.commands.ground_truth import GroundTruthIndex
from detrscope.commands.see_display import SeeDisplay
from detrscope.commands.trace_provider import TraceInput, TraceProvider, expand_trace_inputs, is_trace_input
from detrscope.console import log, progress
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.html import ResultList
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.media.sources import MediaSource, warn_of_other_media_frames
from detrscope.lens.changes import Change
from detrscope.lens.measure import Measurement
from detrscope.trace_interface import Trace
from detrscope.views import VIEWS, View, view_of
from detrscope.views.canvas import PixelFigure
from detrscope.views.changes import Changes
from detrscope.views.metrics import MetricsData
from detrscope.views.options import DEFAULT_OPTIONS, NoDetections, NotInTrace, PointOutsideImage, ViewOptions


@dataclass(repr=False)
class SeeResult(SeeDisplay):
    """Figures of one image: in memory, or in a folder where one was given.

    Attributes:
        source: name of the image.
        figures: figures by view; empty where they were written.
        numbers: numbers of each view as JSON values; empty unless requested.
        left_out: views that need something this trace does not have, and what that is.
        no_detections: why views of detections were left out; empty where there are detections.
        measurements: measurements of the view `metrics`.
        changes: what became of each detection, of the view `changes`.
        trace: the trace; None where a folder was given.
        files: written files, by view or file name.
    """

    source: str
    figures: dict[str, PixelFigure] = field(default_factory=dict)
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    no_detections: str = ""
    measurements: list[Measurement] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    trace: Trace | None = None
    files: dict[str, Path] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return source, numbers of each view, views left out and files as JSON values."""
        files = {name: str(path) for name, path in self.files.items()}
        return {"source": self.source, "views": self.numbers, "left_out": self.left_out, "files": files}


def see(
    sources: TraceInput | list[TraceInput],
    model: str | Path | Detector | None = None,
    *,
    views: str | Sequence[str] = (),
    options: ViewOptions = DEFAULT_OPTIONS,
    against: str | Path | Detector | Trace | None = None,
    ground_truth: str | Path | None = None,
    split: str | None = None,
    out: str | Path | None = None,
    image_format: str = "png",
    trace_format: TraceFormat | None = None,
    features: str | Sequence[str] = (),
    report: bool | None = None,
    numbers: bool = False,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> list[SeeResult]:
    """Draw figures of images, or of their traces.

    Args:
        sources: one or several images, folders, globs, URLs, arrays, traces, or trace files (`x.trace`).
        model: variant, checkpoint, Hugging Face folder or id, or a `Detector`; None is the shipped model. Traces need
            none.
        views: names of `VIEWS`; by default all that apply.
        options: queries, points, layer, head, level ...; each view chooses what is left out.
        against: trace of the same image, its file, or another model to compare with.
        ground_truth: dataset that has these images: its boxes are drawn, and attention on its masks is measured.
        split: split of that dataset; None is val.
        out: folder; each image has its own in it. None keeps everything in memory.
        image_format: png, jpg, webp, svg or pdf.
        trace_format: "full", "half" (the precision of records) or "none" to write no trace; None is "full" where all
            views are drawn and the traces of all images take less than a gigabyte, else "none".
        features: backbone convolutions whose feature maps are drawn and kept in the trace file; by default the last of
            each stage are drawn and not kept.
        report: write report.html, the page of an image; None does where no view is chosen.
        numbers: keep the numbers of each view as JSON values in `SeeResult.numbers`.
        load_options: how to load a model that is given by name; `weights` are those of `model`, not of `against`.

    Returns:
        A `SeeResult` for each image.

    Raises:
        UserError: a wrong argument or option, a named source that cannot be read, or no detections in it.
        WorkFailed: nothing in a folder could be drawn.
    """
    views = (views,) if isinstance(views, str) else views
    drawn = {name: view_of(name) for name in views or VIEWS}
    options = replace(options, against=None)  # set for each image
    if views:
        in_trace = trace_format not in (None, "none")
        beside = {"against": against is not None, "ground_truth": ground_truth is not None and not in_trace}
        _check_use(options, {name for name, given in beside.items() if given}, drawn)
    inputs = expand_trace_inputs(sources if isinstance(sources, list) else [sources])
    images = sum(not is_trace_input(content) for _, content in inputs)
    files = None
    if out is not None:
        trace_format = trace_format or ("none" if views else None)
        files = FigureFiles(Path(out), image_format, trace_format, bool(features), images)
    if not images:
        _refuse_for_traces(model=model, weights=load_options.weights, features=features)
        if against is None or isinstance(against, Trace | Detector) or is_trace_input(against):
            given = {f.name: getattr(load_options, f.name) != f.default for f in fields(LoadOptions)}
            _refuse_for_traces(**given)
    if images and not isinstance(model, Detector):
        model = open_detector(model or SHIPPED, load_options)
    if isinstance(against, str | Path):
        is_file = is_trace_input(against)
        against = (
            Trace.load(against) if is_file else open_detector(against, replace(load_options, weights=None))
        )
    if split is not None and ground_truth is None:
        raise UserError(f"split {split}: is a split of the ground truth, but no ground truth was given")
    index = None if ground_truth is None else GroundTruthIndex(ground_truth, split or "val")
    detector = model if isinstance(model, Detector) else None
    if against is None and detector is not None and detector.edits:
        against = detector.unedited
    domain = DomainWarning(detector)
    provider = TraceProvider(detector, features, against, index, domain)
    results: ResultList[SeeResult] = ResultList()
    with progress() as bar:
        task = bar.add_task("drawing", total=len(inputs) * len(drawn))
        for number, (source, content) in enumerate(inputs):
            bar.update(task, completed=number * len(drawn), description=Path(source.name).name)
            trace = None
            with _skipping(source, UserError):
                trace = provider.trace(content, source.name)
            if trace is None:
                continue
            if not is_trace_input(content):
                warn_of_other_media_frames(source)
            chosen = replace(options, against=provider.counterpart(trace))
            with _skipping(source, NoDetections, PointOutsideImage):
                chosen.check(trace)
                _warn_of_points(trace, chosen, drawn)
                result = SeeResult(source.name)
                for name, view in drawn.items():
                    again = provider if view.uses_gradients and not is_trace_input(content) else None
                    figure = _draw(result, name, view, trace, chosen, again, optional=not views)
                    if figure is not None:
                        if numbers and figure.numbers is not None:
                            result.numbers[name] = figure.numbers.to_json()
                        if files:
                            result.files[name] = files.write_figure(figure, source.stem, name)
                        else:
                            result.figures[name] = figure
                    bar.advance(task)
                if files:
                    result.files |= files.write_tables(
                        source.stem, trace, result.measurements, from_file=is_trace_input(content)
                    )
                    if report or (report is None and not views):
                        result.files[REPORT] = files.write_report(source.stem, trace, chosen.against)
                else:
                    result.trace = trace
                results.append(result)
                _log_left_out(result)
    domain.warn()
    report_skipped_images(len(results), len(inputs))
    return results


def report_skipped_images(drawn: int, images: int) -> None:
    """Warn how many images were skipped.

    Raises:
        WorkFailed: all of them.
    """
    if not drawn:
        raise WorkFailed(f"none of the {images} images could be drawn")
    if drawn < images:
        log.warning(f"{images - drawn} of {images} images were skipped")


def _draw(
    result: SeeResult,
    name: str,
    view: View,
    trace: Trace,
    options: ViewOptions,
    provider: TraceProvider | None,
    optional: bool,
) -> PixelFigure | None:
    """Draw one view; an optional one that needs what this trace does not have is left out.

    Without detections, encoder, features and shapes are drawn all the same.
    """
    try:
        figure = view(provider.with_gradients(trace, options) if provider else trace, options)
    except (NotInTrace, NoDetections) as reason:
        if not optional:
            raise
        result.left_out[name] = str(reason)
        if isinstance(reason, NoDetections):
            result.left_out[name], result.no_detections = "no detections", str(reason)
        return None
    if isinstance(figure.numbers, MetricsData):
        result.measurements += figure.numbers.measurements
    if isinstance(figure.numbers, Changes):
        result.changes += figure.numbers.changes
    return figure


def _warn_of_points(trace: Trace, options: ViewOptions, drawn: Mapping[str, View]) -> None:
    """Warn that without an encoder a point makes no difference to views that show one row."""
    unchanged = [name for name, view in drawn.items() if view.one_row and "points" in view.uses]
    if options.points and unchanged and not trace.sites_of(trace.token_kind):
        log.warning(
            "%s has no encoder attention at a point: %s show a query instead",
            trace.card.variant,
            ", ".join(unchanged),
        )


def _log_left_out(result: SeeResult) -> None:
    if result.no_detections:
        names = ", ".join(name for name, reason in result.left_out.items() if reason == "no detections")
        log.warning("%s: %s; left out: %s", result.source, result.no_detections, names)


@contextmanager
def _skipping(source: MediaSource, *kinds: type[UserError]) -> Iterator[None]:
    """Turn an error about an image that was not named itself, but found in a folder, into a warning."""
    try:
        yield
    except kinds as error:
        if source.named:
            raise
        log.warning(f"skipped: {Path(source.name).name}: {error}")


def _refuse_for_traces(**given: object) -> None:
    """Refuse arguments that only a model would use.

    Raises:
        UserError: one of them was given.
    """
    for name, value in given.items():
        if value:
            raise UserError(f"{name}: has no effect on traces, which are drawn without a model; leave it out")


def _check_use(options: ViewOptions, beside: set[str], drawn: Mapping[str, View]) -> None:
    """Refuse options that no chosen view uses.

    Raises:
        UserError: the option, and the views that use it.
    """
    given = {
        f.name for f in fields(ViewOptions) if getattr(options, f.name) != getattr(DEFAULT_OPTIONS, f.name)
    }
    if {"queries", "points"} <= given and all(view.one_row for view in drawn.values()):
        raise UserError(f"queries and points: {', '.join(drawn)} shows one of them; leave the other out")
    used = {part for view in drawn.values() for part in view.uses}
    for part in sorted(given | beside):
        if part not in used:
            users = ", ".join(name for name, view in VIEWS.items() if part in view.uses)
            raise UserError(f"{part}: has no effect on {', '.join(drawn)}; only these views use it: {users}")
