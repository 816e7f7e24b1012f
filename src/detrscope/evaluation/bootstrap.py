"""How far the images of a dataset determine an AP, and the difference of two; hotcoco draws the samples.

Efron's bootstrap: AP is computed on samples of as many images, drawn with replacement; an interval holds the middle 95%
of them. Two models are evaluated on the same samples (paired), which takes out what makes a sample hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAMPLES = 1000
LEAST_SAMPLES = 100
CONFIDENCE = 0.95
MOST_RESULTS = 40_000_000  # of all samples together: about a minute


@dataclass(frozen=True)
class Interval:
    """An AP with its interval by the bootstrap over images."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class APDifference:
    """AP of one set of results less that of another on the same images.

    Attributes:
        value: the difference, of fractions of 1.
        low: least difference of the middle 95% of the samples.
        high: the greatest.
        samples: number of samples.
    """

    value: float
    low: float
    high: float
    samples: int

    @property
    def is_significant(self) -> bool:
        """Whether the interval lies on one side of 0: other images would hardly turn the order round."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**vars(self), "is_significant": self.is_significant}


def evaluate_results(truth: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    """Return hotcoco's evaluator of results, which has matched them with the ground truth."""
    import hotcoco

    evaluator = hotcoco.COCOeval(truth, truth.load_res([dict(row) for row in results]), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def ap_interval(truth: Any, evaluator: Any, results: int) -> Interval:
    """Return the AP of an evaluator with its interval.

    Args:
        truth: hotcoco's ground truth.
        evaluator: of the results.
        results: their number.

    Without images AP is not defined. A sample that has no object at all counts as AP 0, which widens the interval of a
    dataset where few images have any.
    """
    import hotcoco

    if not truth.get_img_ids():
        return Interval(None, 0.0, 0.0)

    nothing = evaluate_results(truth, [])
    compared = hotcoco.compare(
        nothing, evaluator, n_bootstrap=sample_count(results), seed=0, confidence=CONFIDENCE
    )
    interval = compared["ci"]["AP"]
    return Interval(defined(compared["metrics_b"]["AP"]), interval["lower"], interval["upper"])


def ap_difference(
    ground_truth: Mapping[str, Any],
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
) -> APDifference | None:
    """Return the AP of the first results less that of the second, with its interval; None where AP is not defined.

    Args:
        ground_truth: COCO dataset.
        first: COCO results.
        second: COCO results of another model on the same images.
    """
    import hotcoco

    truth = hotcoco.COCO(dict(ground_truth))
    if not truth.get_img_ids():
        return None
    one, other = (evaluate_results(truth, results) for results in (first, second))
    samples = sample_count(len(first) + len(second))
    compared = hotcoco.compare(other, one, n_bootstrap=samples, seed=0, confidence=CONFIDENCE)
    if defined(compared["metrics_a"]["AP"]) is None:
        return None
    interval = compared["ci"]["AP"]
    return APDifference(compared["deltas"]["AP"], interval["lower"], interval["upper"], samples)


def sample_count(results: int) -> int:
    """Return how many samples to draw, so that many results do not take longer than a minute or two."""
    return max(LEAST_SAMPLES, min(SAMPLES, MOST_RESULTS // max(results, 1)))


def defined(value: float) -> float | None:
    """Return an AP; None where there is nothing to measure against."""
    return None if value < 0 else float(value)
