"""The methods that rank places: gradients against finite differences, all of them one weight for each token."""

from __future__ import annotations

import pytest
import torch

from detrscope.core.types import Batch
from detrscope.explain.explainers import (
    EXPLAINERS,
    ON_REQUEST,
    ExplainInput,
    choose_methods,
    explain_inputs,
)
from detrscope.inference.torch_engine import require_torch_engine
from detrscope.lens.deletion_curves import Detected
from tests.support.traces import detector_of, picture

QUERY = 2


def case_of(variant: str) -> ExplainInput:
    detector = detector_of(variant)
    trace = detector.trace(picture(), explain=[QUERY])
    index = trace.gradients[0].class_index
    detected = [Detected(QUERY, index, trace.boxes_cxcywh[-1, QUERY])]
    (case,) = explain_inputs(detector, trace, detected, masks=32)
    return case


@pytest.mark.parametrize(
    "variant", ["detr-r18", "sprint-dense-n", "sprint-deformable-n", "deformable-detr-r50"]
)
def test_every_method_gives_a_weight_per_token(variant: str) -> None:
    case = case_of(variant)
    tokens = sum(level.height * level.width for level in case.trace.levels)
    for name, explain in EXPLAINERS.items():
        if name in ON_REQUEST and not variant.startswith("sprint"):  # slow, and uses nothing of the family
            continue
        weights = explain(case)
        assert weights.shape == (tokens,) and bool(weights.isfinite().all()) and weights.min() >= 0, name
        assert weights.std() > 0, name


def test_input_gradient_equals_finite_difference() -> None:
    """A small step along the gradient, in double precision, of a family in which nothing is detached."""
    detector = detector_of("detr-r18")
    case = case_of("detr-r18")
    direction = case.gradient.image.double() / case.gradient.image.double().norm()
    model = require_torch_engine(detector.engine, "test").model.double()

    def logit(image: torch.Tensor) -> float:
        with torch.no_grad():
            return float(model(Batch(image[None])).logits[-1, 0, QUERY, case.detected.class_index])

    step = 1e-4
    image = case.normalised.double()
    slope = (logit(image + step * direction) - logit(image - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(case.gradient.image.norm()), rel=1e-2)


def test_token_gradient_equals_finite_difference() -> None:
    """A small step of the encoder's input along the gradient, in double precision."""
    detector = detector_of("detr-r18")
    case = case_of("detr-r18")
    model = require_torch_engine(detector.engine, "test").model.double()
    direction = case.gradient.by_tokens.double() / case.gradient.by_tokens.double().norm()
    neck = model.neck.forward

    def logit(step: float) -> float:
        def moved(*inputs: object) -> object:
            pyramid = neck(*inputs)
            return pyramid.with_tokens(pyramid.tokens + step * direction)

        model.neck.forward = moved
        with torch.no_grad():
            return float(
                model(Batch(case.normalised.double()[None])).logits[-1, 0, QUERY, case.detected.class_index]
            )

    slope = (logit(1e-5) - logit(-1e-5)) / 2e-5
    assert slope == pytest.approx(float(case.gradient.by_tokens.norm()), rel=2e-2)


def test_box_centre_ranks_the_centre_token_first() -> None:
    case = case_of("detr-r18")
    weights = EXPLAINERS["middle of the box"](case)
    box = case.trace.boxes_xyxy()[QUERY]
    middle = ((box[:2] + box[2:]) / 2).clamp(min=0)
    inside = (float(middle[0].clamp(max=90)), float(middle[1].clamp(max=50)))
    assert int(weights.argmax()) == case.trace.token_at(inside)


def test_what_takes_long_runs_only_where_it_is_named(caplog: pytest.LogCaptureFixture) -> None:
    detector = detector_of("sprint-dense-n")
    with caplog.at_level("INFO"):
        assert choose_methods(detector, []) == [name for name in EXPLAINERS if name != "VPS"]
    assert "it takes thousands of runs of the model for each detection: VPS" in caplog.text
    assert choose_methods(detector, ["VPS", "rollout"]) == ["VPS", "rollout"]
