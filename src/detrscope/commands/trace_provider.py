"""What can be looked at: pictures, through a model, and traces of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from detrscope.commands.ground_truth import GroundTruthIndex
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.data.image_reader import ImageSource
from detrscope.inference.detector import Detector
from detrscope.inference.media_sources import MediaSource, UniqueNames, expand
from detrscope.trace_interface import Trace
from detrscope.views.features import stage_ends
from detrscope.views.options import ViewOptions
from detrscope.views.relevance import rested_on

SUFFIX = ".trace"
TraceInput = ImageSource | Trace


def is_trace(look: TraceInput) -> bool:
    """Whether no model is needed to look: a trace, or the file of one."""
    return isinstance(look, Trace) or (isinstance(look, str | Path) and Path(look).suffix == SUFFIX)


def expand_inputs(looks: Sequence[TraceInput]) -> list[tuple[MediaSource, TraceInput]]:
    """Every picture and trace with what it is called, in the order given; folders and globs by name.

    Raises:
        UserError: no such file, a folder or glob without a picture, or a film.
    """
    todo: list[tuple[MediaSource, TraceInput]] = []
    stems = UniqueNames()
    for number, look in enumerate(looks, start=1):
        if isinstance(look, Trace):
            name = look.source or f"trace {number}"
            todo.append((MediaSource(name, name, stems.unused(Path(name).stem), False, True), look))
        else:
            todo += [(source, source.content) for source in expand([look], stems, before=len(todo))]
    for source, _ in todo:
        if source.is_video:
            raise UserError(f"{source.name}: is a film; see looks at pictures, detect draws on films")
    return todo


class TraceProvider:
    """Makes or loads the traces.

    Args:
        detector: looks at pictures; None where all is traces.
        features: convolutions whose maps are kept; where none are named, the last of each stage.
        against: looks at the same pictures for comparison, or is the trace to compare with.
        truth: of the pictures, where it is known.

    Raises:
        UserError: the model has no such convolutions.
    """

    def __init__(
        self,
        detector: Detector | None,
        features: str | Sequence[str],
        against: Detector | Trace | None,
        truth: GroundTruthIndex | None = None,
    ) -> None:
        self.detector, self.against, self.truth = detector, against, truth
        probe = Probe((), (), features)
        self.features = probe.features
        if detector is not None:
            probe.check(detector.engine.sites, detector.engine.feature_sites)
            self.features = self.features or stage_ends(detector.engine.feature_sites)

    def look(self, look: TraceInput) -> Trace:
        """The trace of a picture, or of a file.

        Raises:
            UserError: it cannot be read, or its truth is not known where it should be.
        """
        trace = self._look(look)
        return trace if self.truth is None else self.truth.add_to(trace)

    def _look(self, look: TraceInput) -> Trace:
        if isinstance(look, Trace):
            return look
        if isinstance(look, str | Path) and is_trace(look):
            return Trace.load(look)
        assert self.detector is not None, "a model is opened where there is a picture"
        return self.detector.trace(look, features=self.features)

    def explain(self, trace: Trace, choice: ViewOptions) -> Trace:
        """The same look again with the gradients of what it is to explain, where a model made it.

        Args:
            trace: made by `look` of a picture.
            choice: whose queries; of none, that of the best detection.

        Raises:
            NothingFound: no query was chosen and none scores high enough.
        """
        assert self.detector is not None and trace.original is not None, "a model has looked at a picture"
        queries = [one.query for one in rested_on(trace, choice)]
        again = self.detector.trace(trace.original, explain=queries)
        return replace(again, source=trace.source, notes=trace.notes, targets=trace.targets)

    def compare(self, trace: Trace) -> Trace | None:
        """What to compare a trace with, if anything.

        Raises:
            UserError: another model is to look at a picture that the trace does not hold.
        """
        if not isinstance(self.against, Detector):
            return self.against
        if trace.original is None:
            raise UserError(
                f"{trace.source}: this trace has no original picture for another model to look at"
            )
        return self.against.trace(trace.original)


def opened(
    against: str | Path | Detector | Trace | None, load: Callable[[str | Path], Detector]
) -> Detector | Trace | None:
    """What was named as a file of a trace or as a model.

    Raises:
        UserError: it cannot be loaded.
    """
    if not isinstance(against, str | Path):
        return against
    return Trace.load(against) if is_trace(against) else load(against)
