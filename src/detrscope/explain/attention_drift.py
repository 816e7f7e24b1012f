"""Drift of attention between two engines of one model, over some images."""

from __future__ import annotations

from collections.abc import Sequence

from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import postprocess
from detrscope.core.probe import Probe
from detrscope.core.types import Outputs
from detrscope.inference.engine import Engine
from detrscope.inference.export.check import TOLERANCES, NamedImage, pair_detections
from detrscope.inference.tracing import trace_image
from detrscope.lens.drift import AttentionDrift, mean_drift, measure_drift


def measure_attention_drift(
    reference: Engine, candidate: Engine, card: ModelCard, images: Sequence[NamedImage]
) -> list[AttentionDrift]:
    """Return the drift of attention between two engines, mean over the best detections of each image.

    Args:
        reference: PyTorch.
        candidate: the exported model, with attention.
        card: card of the model.
        images: images to trace.
    """
    drifts = []
    for name, image in images:
        traces = [
            trace_image(engine, card, image, Probe(values=False), source=name)
            for engine in (reference, candidate)
        ]
        size = [(image.shape[1], image.shape[2])]
        scored = [
            postprocess(Outputs(t.logits[:, None], t.boxes_cxcywh[:, None]), card, size)[0] for t in traces
        ]
        pairs = pair_detections(scored[0], scored[1], TOLERANCES["fp16"])
        drifts.append(measure_drift(traces[0], traces[1], [(p.reference_query, p.query) for p in pairs]))
    return mean_drift(drifts)
