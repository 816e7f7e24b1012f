"""Explanation methods: the weight of every image token for one detection.

Gradients are those of training: none through what a family detaches, such as the reference boxes that a decoder
layer hands to the next one and, in two-stage families, the choice of the tokens that queries start from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detrscope.console import log
from detrscope.core.attention_map import AttentionMap
from detrscope.core.postprocess import class_scores
from detrscope.core.trace_data import TraceData
from detrscope.explain.masked_images import MASKS, MaskedImages
from detrscope.explain.region_search import search_regions
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import InputGradient, TorchEngine, require_torch_engine
from detrscope.lens.deletion_curves import Detected
from detrscope.lens.maps import map_of_cross_attention
from detrscope.lens.relevance import gradient_attention, relevance
from detrscope.lens.rollout import rollout
from detrscope.lens.token_coverage import centres_of_covered_tokens

RANDOM = "random"


@dataclass(frozen=True)
class ExplainInput:
    """Input of an explanation method: a trace with gradients of one detection, and what the model gives beside it.

    Attributes:
        trace: with the gradients of the detection's query, where the engine gives them.
        detected: the detection to explain.
        gradient: of the class's logit by the image and by the tokens of its feature maps; None without PyTorch.
        normalised: [3, h, w] normalised image.
        masked: predictions for masked images; nothing runs before a method asks for it.
        index: index of the detection in `masked`.
    """

    trace: TraceData
    detected: Detected
    gradient: InputGradient | None
    normalised: Tensor
    masked: MaskedImages
    index: int


Explainer = Callable[[ExplainInput], Tensor]  # -> [S], the weight of every token


def explain_by_last_attention(case: ExplainInput) -> Tensor:
    """Cross-attention of the last decoder layer, mean over heads: [S]."""
    return _tokens(map_of_cross_attention(case.trace, case.detected.query))


def explain_by_max_attention(case: ExplainInput) -> Tensor:
    """Cross-attention of the last decoder layer, maximum over heads: [S]."""
    return _tokens(map_of_cross_attention(case.trace, case.detected.query, merge="max"))


def explain_by_mean_attention(case: ExplainInput) -> Tensor:
    """Cross-attention, mean over heads and decoder layers: [S]."""
    layers = range(case.trace.layers("decoder.cross"))
    return torch.stack(
        [_tokens(map_of_cross_attention(case.trace, case.detected.query, n)) for n in layers]
    ).mean(0)


def explain_by_rollout(case: ExplainInput) -> Tensor:
    """Attention rollout through decoder and encoder: [S]."""
    return _tokens(rollout(case.trace, query=case.detected.query))


def explain_by_relevance(case: ExplainInput) -> Tensor:
    """Gradient-weighted relevance through decoder and encoder: [S]."""
    return _tokens(relevance(case.trace, case.detected.query))


def explain_by_gradient_weighted_attention(case: ExplainInput) -> Tensor:
    """Gradient-weighted cross-attention, mean over decoder layers: [S]."""
    layers = range(case.trace.layers("decoder.cross"))
    maps = [_tokens(gradient_attention(case.trace, case.detected.query, n)) for n in layers]
    return torch.stack(maps).mean(0)


def explain_by_input_gradient(case: ExplainInput) -> Tensor:
    """Absolute gradient of the class's logit, maximum over colours, mean over each token's cell: [S]."""
    return cell_means(case, _gradient(case).image.abs().amax(0))


def explain_by_gradient_times_input(case: ExplainInput) -> Tensor:
    """Gradient of the class's logit times the normalised image: absolute sum over colours, mean over cells: [S]."""
    return cell_means(case, (_gradient(case).image * case.normalised).sum(0).abs())


def explain_by_odam(case: ExplainInput) -> Tensor:
    """ODAM (Zhao and Chan 2023, arXiv:2304.06354) of the class's logit: ReLU(sum over k of G_k A_k).

    The feature maps A are the tokens that enter the encoder, and G = dY/dA weighs every channel k at every place by
    itself, unlike Grad-CAM. The paper allows for a smoothing of G, which is left out, as in the authors' program.
    """
    gradient = _gradient(case)
    return (gradient.by_tokens * gradient.tokens).sum(-1).relu()


def explain_by_masks(case: ExplainInput) -> Tensor:
    """D-RISE (arXiv:2006.03204): [S], the share of the detection left where a token's cell is shown."""
    return cell_means(case, case.masked.map_of(case.index))


def explain_by_search(case: ExplainInput) -> Tensor:
    """VPS (arXiv:2411.16198): [S], how early a greedy search chooses a token's region."""
    return cell_means(case, search_regions(case.masked.detector, case.normalised, case.detected))


def explain_by_box_centre(case: ExplainInput) -> Tensor:
    """Baseline that ignores the model: [S], nearness to the centre of the box, in box sizes."""
    g = case.trace.geometry
    box = g.boxes_xyxy(case.detected.box_cxcywh)
    centre, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1)
    distance = ((centres_of_covered_tokens(g, case.trace.levels) - centre) / size).square().sum(-1)  # [S]
    return 1 / (1 + distance)


EXPLAINERS: dict[str, Explainer] = {
    "attention, last layer": explain_by_last_attention,
    "attention, last layer, greatest head": explain_by_max_attention,
    "attention, mean of layers": explain_by_mean_attention,
    "rollout": explain_by_rollout,
    "gradient-weighted attention": explain_by_gradient_weighted_attention,
    "relevance": explain_by_relevance,
    "input gradient": explain_by_input_gradient,
    "gradient x input": explain_by_gradient_times_input,
    "ODAM": explain_by_odam,
    "D-RISE": explain_by_masks,
    "VPS": explain_by_search,
    "middle of the box": explain_by_box_centre,
}


NEEDS_GRADIENTS = (
    "gradient-weighted attention",
    "relevance",
    "input gradient",
    "gradient x input",
    "ODAM",
)

ON_REQUEST = ("VPS",)  # more than two thousand runs of the model for each detection


def choose_methods(detector: Detector, methods: Sequence[str]) -> list[str]:
    """Return the methods to use: the requested ones, else all that the engine of a detector allows but VPS.

    Raises:
        UserError: a requested method needs gradients, which exported models do not give.
    """
    no_gradients = not isinstance(detector.engine, TorchEngine)
    if no_gradients and (wrong := [method for method in methods if method in NEEDS_GRADIENTS]):
        require_torch_engine(detector.engine, f"method '{wrong[0]}'")
    if methods:
        return [*methods]
    log.info(
        "measured only where it is named, since it takes thousands of runs of the model for each detection: %s",
        ", ".join(ON_REQUEST),
    )
    if not no_gradients:
        return [method for method in EXPLAINERS if method not in ON_REQUEST]
    name = detector.engine.name
    log.warning("left out, since engine %s gives no gradients: %s", name, ", ".join(NEEDS_GRADIENTS))
    return [method for method in EXPLAINERS if method not in (*NEEDS_GRADIENTS, *ON_REQUEST)]


def explain_detections(
    detector: Detector, path: Path, threshold: float, masks: int = MASKS
) -> list[ExplainInput]:
    """Return an input of the explanation methods for each detection in an image.

    Args:
        detector: the model.
        path: image.
        threshold: minimum score of a detection.
        masks: number of masks of D-RISE.

    Raises:
        UserError: an image that cannot be read.
    """
    detections = detector.trace(path, sites=[]).detections(threshold)
    queries = list(dict.fromkeys(detections.query_ids.tolist()))
    if not queries:
        return []
    if isinstance(detector.engine, TorchEngine):
        trace = detector.trace(path, explain=queries)
        boxes = trace.boxes_cxcywh[-1]
        detected = [Detected(g.query, g.class_index, boxes[g.query]) for g in trace.gradients]
        return explain_inputs(detector, trace, detected, masks)
    trace = detector.trace(path)
    classes = class_scores(trace.logits[-1], detector.card.scoring).argmax(-1)
    boxes = trace.boxes_cxcywh[-1]
    detected = [Detected(q, int(classes[q]), boxes[q]) for q in queries]
    return _inputs(detector, trace, detected, [None] * len(detected), masks)


def explain_inputs(
    detector: Detector, trace: TraceData, detected: list[Detected], masks: int = MASKS
) -> list[ExplainInput]:
    """Return an input of the explanation methods for each detection of a trace that was made with `explain`.

    Raises:
        UserError: PyTorch does not run this detector.
    """
    engine = require_torch_engine(detector.engine, "the gradient of an image")
    image = detector.card.preprocessing.normalise(trace.image)
    gradients = engine.input_gradients(image[None], [(d.query, d.class_index) for d in detected])
    return _inputs(detector, trace, detected, gradients, masks)


def cell_means(case: ExplainInput, pixels: Tensor) -> Tensor:
    """Return the mean over each token's cell, [S], of values for the pixels of the model's input [h, w]."""
    geometry = case.trace.geometry.of_model_input()
    return torch.cat([geometry.cell_means(pixels, level).flatten() for level in case.trace.levels])


def _inputs(
    detector: Detector,
    trace: TraceData,
    detected: Sequence[Detected],
    gradients: Sequence[InputGradient | None],
    masks: int,
) -> list[ExplainInput]:
    image = detector.card.preprocessing.normalise(trace.image)
    masked = MaskedImages(detector, image, detected, masks)
    return [
        ExplainInput(trace, d, gradient, image, masked, index)
        for index, (d, gradient) in enumerate(zip(detected, gradients, strict=True))
    ]


def _gradient(case: ExplainInput) -> InputGradient:
    assert case.gradient is not None, "the method needs gradients"
    return case.gradient


def _tokens(attention: AttentionMap) -> Tensor:
    """Return the weights of all tokens, [S]."""
    return torch.cat([part.flatten() for part in attention.parts])
