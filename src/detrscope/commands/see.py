"""Look at pictures: all figures of one picture in one folder, with its trace and its measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from detrscope.commands.domain_warning import SHIPPED, DomainWarning
from detrscope.commands.ground_truth import GroundTruthIndex
from detrscope.commands.trace_provider import (
    SUFFIX,
    TraceInput,
    TraceProvider,
    expand_inputs,
    is_trace,
    opened,
)
from detrscope.console import log, progress
from detrscope.core.errors import UserError, WorkFailed, nearest
from detrscope.core.files import atomic_write
from detrscope.core.trace_file import trace_bytes
from detrscope.inference.detector import Detector, load
from detrscope.inference.engine import Precision
from detrscope.inference.media_sources import MediaSource, warn_of_other_frames
from detrscope.lens.measure import Measure
from detrscope.lens.report import write_csv
from detrscope.trace_interface import Trace
from detrscope.views import VIEWS, View, view_of
from detrscope.views.canvas import ENDINGS, PixelFigure
from detrscope.views.captions import NOTE
from detrscope.views.options import DEFAULT_OPTIONS, NoDetections, NotInTrace, PointOutsideImage, ViewOptions

MEASURES, SHAPES = "measures.csv", "shapes.txt"
OPTIONS = {"queries": "query", "points": "point"}  # where the command says it otherwise than `ViewOptions`
SPLIT = "val"
MUCH = 1000.0  # MB of traces that are not written where nobody asked for them
LARGE = 50.0  # MB of one trace, to be mentioned
Keep = Literal["full", "half", "none"]


@dataclass
class SeeResult:
    """What was seen of one picture: in memory, or in a folder where one was given.

    Attributes:
        source: as it was named.
        pictures: by the name of the view; empty where they were written.
        left_out: views that show what this trace does not have, and what that is.
        nothing_found: why views of detections were left out; empty where something was found.
        measures: where the view `measures` was drawn.
        trace: the look; None where a folder was given.
        files: what was written, by the name of the view or of the file.
    """

    source: str
    pictures: dict[str, PixelFigure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    nothing_found: str = ""
    measures: list[Measure] = field(default_factory=list)
    trace: Trace | None = None
    files: dict[str, Path] = field(default_factory=dict)


def see(
    sources: TraceInput | list[TraceInput],
    model: str | Path | Detector | None = None,
    *,
    views: str | Sequence[str] = (),
    choice: ViewOptions = DEFAULT_OPTIONS,
    against: str | Path | Detector | Trace | None = None,
    truth: str | Path | None = None,
    split: str | None = None,
    out: str | Path | None = None,
    picture_format: str = "png",
    keep: Keep | None = None,
    features: str | Sequence[str] = (),
    weights: str | Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> list[SeeResult]:
    """Draw figures of pictures, or of traces of them.

    Args:
        sources: one or several pictures, folders, globs, URLs, arrays, traces, or files of traces (`x.trace`).
        model: variant, checkpoint, Hugging Face folder or id, or a `Detector`; None is the model that ships. Traces
            need none.
        views: names of `VIEWS`; all that apply where none are named.
        choice: queries, points, layer, head, level ...; what is left out each view chooses itself.
        against: what to compare with: a trace of the same picture or its file, or another model.
        truth: a dataset that has these pictures: its boxes are drawn, and attention on what its masks show is measured.
        split: of that dataset; None is val.
        out: a folder; each picture has one of its own in it. None keeps everything in memory.
        picture_format: png, jpg, webp, svg or pdf.
        keep: whether to write the trace: "full", "half" (the precision of records) or "none"; None is "full" where all
            figures are drawn and traces of all pictures take less than a gigabyte, else "none".
        features: convolutions of the backbone whose maps are drawn and kept in the trace's file; where none are named,
            the last of each stage are drawn and not kept.
        weights: for a variant that is not loaded yet: a file in place of the published one, or "random".
        device: where to run, for a model that is not loaded yet.
        precision: what to compute in, for a model that is not loaded yet.

    Returns:
        A `SeeResult` for each picture.

    Raises:
        UserError: a wrong argument or choice, a named source that cannot be read, or nothing found in it.
        WorkFailed: nothing in a folder could be looked at.
    """
    views = (views,) if isinstance(views, str) else views
    drawn = {name: view_of(name) for name in views or VIEWS}
    choice = replace(choice, against=None)  # one for each picture
    if views:
        in_trace = keep not in (None, "none")
        beside = {"against": against is not None, "truth": truth is not None and not in_trace}
        _check_use(choice, {name for name, given in beside.items() if given}, drawn)
    todo = expand_inputs(sources if isinstance(sources, list) else [sources])
    writer = None
    if out is not None:
        looked_at = sum(not is_trace(look) for _, look in todo)
        writer = _Writer(Path(out), picture_format, keep, bool(features), looked_at, bool(views))
    if all(is_trace(look) for _, look in todo):
        _refuse_for_traces(model=model, weights=weights, features=features)
        if against is None or isinstance(against, Trace | Detector) or is_trace(against):
            _refuse_for_traces(device=device != "auto", precision=precision != "auto")
    domain = DomainWarning(model, weights)
    if any(not is_trace(look) for _, look in todo) and not isinstance(model, Detector):
        model = load(model or SHIPPED, weights=weights, device=device, precision=precision)
    other = opened(against, lambda name: load(name, device=device, precision=precision))
    if split is not None and truth is None:
        raise UserError(f"--split {split}: is of the dataset of --truth, and there is none")
    known = None if truth is None else GroundTruthIndex(truth, split or SPLIT)
    eyes = TraceProvider(model if isinstance(model, Detector) else None, features, other, known)
    seen: list[SeeResult] = []
    with progress() as bar:
        task = bar.add_task("seeing", total=len(todo) * len(drawn))
        for number, (source, look) in enumerate(todo):
            bar.update(task, completed=number * len(drawn), description=Path(source.name).name)
            trace = None
            with _skipping(source, UserError):
                trace = eyes.look(look)
            if trace is None:
                continue
            if not is_trace(look):
                warn_of_other_frames(source)
            if (
                not isinstance(look, Trace)
                and not is_trace(look)
                and (note := domain.note(look, source.name))
            ):
                trace = replace(trace, notes={**trace.notes, NOTE: note})
            chosen = replace(choice, against=eyes.compare(trace))
            with _skipping(source, NoDetections, PointOutsideImage):
                chosen.check(trace)
                _warn_of_points(trace, chosen, drawn)
                one = SeeResult(source.name)
                for name, view in drawn.items():
                    again = eyes if view.explains and not is_trace(look) else None
                    _draw(one, name, view, trace, chosen, again, left_out=not views)
                    if writer:
                        writer.picture(one, source, name)
                    bar.advance(task)
                if writer:
                    writer.tables(one, source, trace, is_file=is_trace(look))
                else:
                    one.trace = trace
                seen.append(one)
                if one.nothing_found:
                    log.warning("%s: %s; left out: %s", one.source, one.nothing_found, _without(one))
    domain.warn()
    if not seen:
        raise WorkFailed(f"none of the {len(todo)} pictures could be looked at")
    if len(seen) < len(todo):
        log.warning(f"{len(todo) - len(seen)} of {len(todo)} pictures were skipped")
    return seen


def _draw(
    one: SeeResult,
    name: str,
    view: View,
    trace: Trace,
    choice: ViewOptions,
    again: TraceProvider | None,
    left_out: bool,
) -> None:
    """Draw one figure; what this trace does not have is left out where the figure was not asked for by name.

    Where nothing was found, encoder, features and shapes are there all the same.
    """
    try:
        sheet = view(again.explain(trace, choice) if again else trace, choice)
    except (NotInTrace, NoDetections) as reason:
        if not left_out:
            raise
        one.left_out[name] = "nothing was found" if isinstance(reason, NoDetections) else str(reason)
        if isinstance(reason, NoDetections):
            one.nothing_found = str(reason)
        return
    one.pictures[name] = sheet
    one.measures += [row for row in sheet.numbers if isinstance(row, Measure)]


def _warn_of_points(trace: Trace, choice: ViewOptions, drawn: Mapping[str, View]) -> None:
    """Say that a point chosen where there is no encoder to ask makes no difference to figures that show one row."""
    alike = [name for name, view in drawn.items() if view.one and "points" in view.uses]
    if choice.points and alike and not trace.sites_of("encoder.self"):
        log.warning(
            "%s has no encoder to ask at a point: %s show a query in its place",
            trace.card.variant,
            ", ".join(alike),
        )


def _without(one: SeeResult) -> str:
    """Return the figures that need a detection."""
    return ", ".join(name for name, reason in one.left_out.items() if reason == "nothing was found")


@contextmanager
def _skipping(source: MediaSource, *kinds: type[UserError]) -> Iterator[None]:
    """An error about a picture that nobody named is a warning."""
    try:
        yield
    except kinds as error:
        if source.named:
            raise
        log.warning(f"skipped: {Path(source.name).name}: {error}")


def _refuse_for_traces(**given: object) -> None:
    """Refuse what only a look of a model would use.

    Raises:
        UserError: it is named.
    """
    for name, value in given.items():
        if value:
            raise UserError(f"--{name}: makes no difference to traces, which are drawn without a model")


def _check_use(choice: ViewOptions, beside: set[str], drawn: Mapping[str, View]) -> None:
    """Refuse a choice that no figure would show.

    Raises:
        UserError: it is named, with the figures.
    """
    made = {
        f.name for f in fields(ViewOptions) if getattr(choice, f.name) != getattr(DEFAULT_OPTIONS, f.name)
    }
    if {"queries", "points"} <= made and all(view.one for view in drawn.values()):
        raise UserError(f"--query and --point: {', '.join(drawn)} shows one of them; leave the other out")
    used = {part for view in drawn.values() for part in view.uses}
    for part in sorted(made | beside):
        if part not in used:
            users = ", ".join(name for name, view in VIEWS.items() if part in view.uses)
            option = OPTIONS.get(part, part.replace("_", "-"))
            raise UserError(f"--{option}: makes no difference to {', '.join(drawn)}; it does to {users}")


class _Writer:
    """The files of a run: for each picture a folder with figures, trace, measures and shapes.

    Raises:
        UserError: not a format of pictures, or the folder is a file.
    """

    def __init__(
        self,
        folder: Path,
        picture_format: str,
        keep: Keep | None,
        features: bool,
        pictures: int,
        chosen: bool,
    ) -> None:
        ending = f".{picture_format}"
        if ending not in ENDINGS:
            raise UserError(f"format '{picture_format}': {nearest(picture_format, [e[1:] for e in ENDINGS])}")
        if folder.is_file():
            raise UserError(f"{folder}: is a file; --out must name a folder")
        self._folder, self._ending, self._features = folder, ending, features
        self._keep: Keep | None = keep or ("none" if chosen else None)  # None: full, unless that is much
        self._pictures = pictures
        self._told = False

    def picture(self, one: SeeResult, source: MediaSource, name: str) -> None:
        """Write a figure, if it was drawn, and let go of it."""
        sheet = one.pictures.pop(name, None)
        if sheet is not None:
            one.files[name] = sheet.save(self._folder / source.stem / f"{name}{self._ending}")

    def tables(self, one: SeeResult, source: MediaSource, trace: Trace, is_file: bool) -> None:
        """Write the trace, unless it came from a file, with the shapes in it, and the measures."""
        folder = self._folder / source.stem
        if one.measures:
            one.files[MEASURES] = folder / MEASURES
            write_csv(folder / MEASURES, one.measures)
        if self._keep != "none" and not is_file:
            kept = trace if self._features else replace(trace, features={})
            if self._tell_size(kept) != "none":
                path = kept.save(folder / f"{source.stem}{SUFFIX}", half=self._keep == "half")
                one.files[path.name] = path
            one.files[SHAPES] = folder / SHAPES
            with atomic_write(folder / SHAPES) as temporary:
                temporary.write_text(kept.describe() + "\n", encoding="utf-8")

    def _tell_size(self, trace: Trace) -> Keep:
        """Say before the first trace is written what all of them will take; by default much is not written at all."""
        if self._told:
            return self._keep or "full"
        self._told = True
        each = trace_bytes(trace, half=self._keep == "half") / 1e6
        total = each * self._pictures
        about = f"about {total:.3g} MB"
        if self._pictures > 1:
            about = f"a trace of each of {self._pictures} pictures: {about} ({each:.3g} MB each)"
        if self._keep is None and total > MUCH:
            self._keep = "none"
            log.warning(
                "%s: traces are not written, for they would take much; --trace full or half writes them",
                about,
            )
        elif self._pictures > 1:
            log.info("%s; --trace half or none for less", about)
        elif total > LARGE:
            log.info("the trace takes %s; --trace half or none for less", about)
        return self._keep or "full"
