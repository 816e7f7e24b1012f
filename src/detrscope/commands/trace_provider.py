"""Make, load and annotate the traces that `see` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detrscope.commands.domain_warning import DomainWarning
from detrscope.commands.ground_truth import GroundTruthIndex
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.data.image_reader import ImageSource
from detrscope.inference.detector import Detector
from detrscope.inference.media.sources import MediaSource, UniqueNames, expand_media_sources
from detrscope.lens.captions import NOTE
from detrscope.trace_interface import Trace
from detrscope.views.features import features_view_stages
from detrscope.views.options import ViewOptions
from detrscope.views.relevance import relevance_queries

SUFFIX = ".trace"
TraceInput = ImageSource | Trace


def is_trace_input(source: TraceInput) -> bool:
    """Return whether a source is a trace or a trace file, which needs no model."""
    return isinstance(source, Trace) or (isinstance(source, str | Path) and Path(source).suffix == SUFFIX)


def expand_trace_inputs(sources: Sequence[TraceInput]) -> list[tuple[MediaSource, TraceInput]]:
    """Return every image and trace with its name, in the order given; folders and globs by name.

    Raises:
        UserError: no such file, a folder or glob without an image, or a video.
    """
    inputs: list[tuple[MediaSource, TraceInput]] = []
    stems = UniqueNames()
    for number, source in enumerate(sources, start=1):
        if isinstance(source, Trace):
            name = source.source or f"trace {number}"
            inputs.append((MediaSource(name, name, stems.unused(Path(name).stem), "image", True), source))
        else:
            inputs += [
                (media, media.content) for media in expand_media_sources([source], stems, before=len(inputs))
            ]
    for media, _ in inputs:
        if media.is_video:
            raise UserError(f"{media.name}: is a video; see takes images, detect takes videos")
    return inputs


class TraceProvider:
    """Makes the trace of each image, or loads it, with its ground truth and notes.

    Args:
        detector: traces images; None where all inputs are traces.
        features: backbone convolutions whose feature maps are recorded; by default the last of each stage.
        against: detector that traces the same images for comparison, or the trace to compare with.
        ground_truth: annotations of the images, where known.
        domain: notes images that the model was not trained for.

    Raises:
        UserError: the model has no such convolutions.
    """

    def __init__(
        self,
        detector: Detector | None,
        features: str | Sequence[str] = (),
        against: Detector | Trace | None = None,
        ground_truth: GroundTruthIndex | None = None,
        domain: DomainWarning | None = None,
    ) -> None:
        self.detector, self.against = detector, against
        self.ground_truth, self.domain = ground_truth, domain
        probe = Probe((), (), features)
        self.features = probe.features
        if detector is not None:
            probe.check(detector.engine.sites, detector.engine.feature_sites)
            self.features = self.features or features_view_stages(detector.engine.feature_sites)

    def trace(self, source: TraceInput, name: str) -> Trace:
        """Return the trace of an image, or of a file.

        Args:
            source: image, trace, or path of a trace file.
            name: name of the source in messages.

        Raises:
            UserError: it cannot be read, or has no ground truth where there should be one.
        """
        if isinstance(source, Trace):
            trace = source
        elif isinstance(source, str | Path) and is_trace_input(source):
            trace = Trace.load(source)
        else:
            assert self.detector is not None, "a model is loaded where there is an image"
            trace = self.detector.trace(source, features=self.features)
            if self.domain is not None and (note := self.domain.note(source, name)):
                trace = replace(trace, notes={**trace.notes, NOTE: note})
        return trace if self.ground_truth is None else self.ground_truth.add_to(trace)

    def with_gradients(self, trace: Trace, options: ViewOptions) -> Trace:
        """Trace an image again with the gradients of the queries to explain.

        Args:
            trace: made by `trace` of an image.
            options: the queries; by default that of the best detection.

        Raises:
            NoDetections: no query was chosen and none reaches the threshold.
        """
        assert self.detector is not None and trace.original is not None, "made from an image by a model"
        queries = [one.query for one in relevance_queries(trace, options)]
        again = self.detector.trace(trace.original, explain=queries)
        return replace(again, source=trace.source, notes=trace.notes, targets=trace.targets)

    def counterpart(self, trace: Trace) -> Trace | None:
        """Return the trace to compare with, if any.

        Raises:
            UserError: a second model is to trace an image that the trace does not hold.
        """
        if not isinstance(self.against, Detector):
            return self.against
        if trace.original is None:
            raise UserError(f"{trace.source}: no original image in this trace, which the second model needs")
        return self.against.trace(trace.original)
