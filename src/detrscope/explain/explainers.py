"""The methods that say which places of an image matter for a detection, as weights of its tokens.

Gradients are those of training: they do not see what a family detaches, such as the reference boxes that a decoder
layer hands to the next one and, in two-stage families, the choice of the tokens that queries start from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detrscope.core.attention_map import AttentionMap
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Batch
from detrscope.inference.detector import Detector
from detrscope.lens.faithfulness import Detected
from detrscope.lens.maps import cross_attention
from detrscope.lens.relevance import gradient_attention, relevance
from detrscope.lens.rollout import rollout
from detrscope.lens.token_coverage import centres_of

RANDOM = "random"


@dataclass(frozen=True)
class ExplainInput:
    """What a method may use: the trace of an image with gradients of the detection, and the model for others."""

    trace: TraceData
    detected: Detected
    image_gradient: Tensor  # [3, h, w] of the class's logit with respect to the normalised image
    normalised: Tensor  # [3, h, w]


Explainer = Callable[[ExplainInput], Tensor]
"""A case -> the weight of every token, [S]."""


def last_attention(case: ExplainInput) -> Tensor:
    """Cross-attention of the last decoder layer, mean over heads."""
    return tokens_of(cross_attention(case.trace, case.detected.query))


def greatest_attention(case: ExplainInput) -> Tensor:
    """Cross-attention of the last decoder layer, greatest over heads."""
    return tokens_of(cross_attention(case.trace, case.detected.query, merge="max"))


def mean_attention(case: ExplainInput) -> Tensor:
    """Cross-attention, mean over heads and decoder layers."""
    layers = range(case.trace.layers("decoder.cross"))
    return torch.stack([tokens_of(cross_attention(case.trace, case.detected.query, n)) for n in layers]).mean(
        0
    )


def rolled_out(case: ExplainInput) -> Tensor:
    """Attention rollout through decoder and encoder."""
    return tokens_of(rollout(case.trace, query=case.detected.query))


def relevant(case: ExplainInput) -> Tensor:
    """Gradient-weighted relevance through decoder and encoder."""
    return tokens_of(relevance(case.trace, case.detected.query))


def gradient_weighted(case: ExplainInput) -> Tensor:
    """Gradient-weighted cross-attention, mean over decoder layers."""
    layers = range(case.trace.layers("decoder.cross"))
    maps = [tokens_of(gradient_attention(case.trace, case.detected.query, n)) for n in layers]
    return torch.stack(maps).mean(0)


def input_gradient(case: ExplainInput) -> Tensor:
    """Absolute gradient of the class's logit with respect to the pixels, greatest over colours, mean in each cell."""
    return _pooled(case, case.image_gradient.abs().amax(0))


def gradient_times_input(case: ExplainInput) -> Tensor:
    """The same gradient times the normalised pixels, absolute sum over colours, mean in each cell."""
    return _pooled(case, (case.image_gradient * case.normalised).sum(0).abs())


def near_the_middle(case: ExplainInput) -> Tensor:
    """No look inside at all: tokens near the middle of the predicted box come first, in units of the box."""
    g = case.trace.geometry
    box = g.boxes_xyxy(case.detected.box_cxcywh)
    middle, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1)
    away = ((centres_of(g, case.trace.levels) - middle) / size).square().sum(-1)  # [S]
    return 1 / (1 + away)


EXPLAINERS: dict[str, Explainer] = {
    "attention, last layer": last_attention,
    "attention, last layer, greatest head": greatest_attention,
    "attention, mean of layers": mean_attention,
    "rollout": rolled_out,
    "gradient-weighted attention": gradient_weighted,
    "relevance": relevant,
    "input gradient": input_gradient,
    "gradient x input": gradient_times_input,
    "middle of the box": near_the_middle,
}


def tokens_of(attention: AttentionMap) -> Tensor:
    """The weights of all tokens in one row: [S]."""
    return torch.cat([part.flatten() for part in attention.parts])


def explain_inputs_in(detector: Detector, path: Path, threshold: float) -> Iterator[ExplainInput]:
    """Each detection of a picture, with what the methods may use."""
    kept = detector.trace(path, sites=[]).detections(threshold)
    queries = list(dict.fromkeys(kept.query_ids.tolist()))
    if queries:
        trace = detector.trace(path, explain=queries)
        detected = [
            Detected(g.query, g.class_index, trace.boxes_cxcywh[-1, g.query]) for g in trace.gradients
        ]
        yield from explain_inputs_of(detector, trace, detected)


def explain_inputs_of(detector: Detector, trace: TraceData, detected: list[Detected]) -> list[ExplainInput]:
    """What the methods may use for some detections of a trace that was made with `explain`."""
    normalised = detector.card.preprocessing.normalise(trace.image)
    images = normalised[None].to(device=detector.device, dtype=detector.dtype).requires_grad_()
    with torch.enable_grad():
        logits = detector.model(Batch(images)).logits[-1, 0]  # [Q, K]
    found = []
    for one in detected:
        (gradient,) = torch.autograd.grad(logits[one.query, one.class_index], images, retain_graph=True)
        found.append(ExplainInput(trace, one, gradient[0].float().cpu(), normalised))
    return found


def _pooled(case: ExplainInput, pixels: Tensor) -> Tensor:
    """Pixels of what the model saw [h, w] as the mean in each token's cell: [S]."""
    seen = case.trace.geometry.of_seen()
    return torch.cat([seen.cell_means(pixels, level).flatten() for level in case.trace.levels])
