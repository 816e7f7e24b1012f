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
from detrscope.core.trace import Trace
from detrscope.core.types import Batch
from detrscope.families.detector import Detector
from detrscope.lens.faithfulness import Detected
from detrscope.lens.places import centres_of
from detrscope.lens.relevance import gradient_attention, relevance
from detrscope.lens.rollout import rollout

RANDOM = "random"


@dataclass(frozen=True)
class Look:
    """What a method may use: the trace of an image with gradients of the detection, and the model for others."""

    trace: Trace
    detected: Detected
    image_gradient: Tensor  # [3, h, w] of the class's logit with respect to the normalised image
    normalised: Tensor  # [3, h, w]


Explainer = Callable[[Look], Tensor]
"""A look -> the weight of every token, [S]."""


def last_attention(look: Look) -> Tensor:
    """Cross-attention of the last decoder layer, mean over heads."""
    return tokens_of(look.trace.cross_attention(look.detected.query))


def greatest_attention(look: Look) -> Tensor:
    """Cross-attention of the last decoder layer, greatest over heads."""
    return tokens_of(look.trace.cross_attention(look.detected.query, merge="max"))


def mean_attention(look: Look) -> Tensor:
    """Cross-attention, mean over heads and decoder layers."""
    layers = range(look.trace.layers("decoder.cross"))
    return torch.stack([tokens_of(look.trace.cross_attention(look.detected.query, n)) for n in layers]).mean(
        0
    )


def rolled_out(look: Look) -> Tensor:
    """Attention rollout through decoder and encoder."""
    return tokens_of(rollout(look.trace, query=look.detected.query))


def relevant(look: Look) -> Tensor:
    """Gradient-weighted relevance through decoder and encoder."""
    return tokens_of(relevance(look.trace, look.detected.query))


def gradient_weighted(look: Look) -> Tensor:
    """Gradient-weighted cross-attention, mean over decoder layers."""
    layers = range(look.trace.layers("decoder.cross"))
    maps = [tokens_of(gradient_attention(look.trace, look.detected.query, n)) for n in layers]
    return torch.stack(maps).mean(0)


def input_gradient(look: Look) -> Tensor:
    """Absolute gradient of the class's logit with respect to the pixels, greatest over colours, mean in each cell."""
    return _pooled(look, look.image_gradient.abs().amax(0))


def gradient_times_input(look: Look) -> Tensor:
    """The same gradient times the normalised pixels, absolute sum over colours, mean in each cell."""
    return _pooled(look, (look.image_gradient * look.normalised).sum(0).abs())


def near_the_middle(look: Look) -> Tensor:
    """No look inside at all: tokens near the middle of the predicted box come first, in units of the box."""
    g = look.trace.geometry
    box = g.boxes_xyxy(look.detected.box_cxcywh)
    middle, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1)
    away = ((centres_of(g, look.trace.levels) - middle) / size).square().sum(-1)  # [S]
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


def looks_at(detector: Detector, path: Path, threshold: float) -> Iterator[Look]:
    """Each detection of a picture, with what the methods may use."""
    kept = detector.trace(path, sites=[]).detections(threshold)
    queries = list(dict.fromkeys(kept.query_ids.tolist()))
    if queries:
        trace = detector.trace(path, explain=queries)
        detected = [
            Detected(g.query, g.class_index, trace.boxes_cxcywh[-1, g.query]) for g in trace.gradients
        ]
        yield from looks(detector, trace, detected)


def looks(detector: Detector, trace: Trace, detected: list[Detected]) -> list[Look]:
    """What the methods may use for some detections of a trace that was made with `explain`."""
    normalised = detector.card.preprocessing.normalise(trace.image)
    images = normalised[None].to(device=detector.device, dtype=detector.dtype).requires_grad_()
    with torch.enable_grad():
        logits = detector.model(Batch(images)).logits[-1, 0]  # [Q, K]
    found = []
    for one in detected:
        (gradient,) = torch.autograd.grad(logits[one.query, one.class_index], images, retain_graph=True)
        found.append(Look(trace, one, gradient[0].float().cpu(), normalised))
    return found


def _pooled(look: Look, pixels: Tensor) -> Tensor:
    """Pixels of what the model saw [h, w] as the mean in each token's cell: [S]."""
    seen = look.trace.geometry.of_seen()
    return torch.cat([seen.cell_means(pixels, level).flatten() for level in look.trace.levels])
