"""Faithfulness measured on a model and a dataset: hide what a map ranks highest and follow the detection's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.console import log, progress
from detrscope.core.attention_map import AttentionMap, Selection, split_attention_by_level
from detrscope.core.edits import Bias, Edit, Gain
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord
from detrscope.core.trace_data import TraceData
from detrscope.data.dataset import DetectionDataset
from detrscope.explain.explainers import EXPLAINERS, RANDOM, ExplainInput, choose_methods, explain_detections
from detrscope.explain.sanity import sanity_check
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine
from detrscope.lens.deletion_curves import (
    Curve,
    Sanity,
    Summary,
    curve_detection_score,
    curve_fractions,
    deletion_order_mask,
    summarise_curves,
)

SITES = "decoder.*.cross"  # where keys are hidden
RANDOM_ORDERS = 3  # per detection
BLUR = 0.08  # standard deviation of the blur that insertion starts from, relative to the image's longer side


@dataclass(frozen=True)
class Faithfulness:
    """Results of a faithfulness measurement.

    Attributes:
        model: variant of the model.
        data: name of the dataset.
        images: number of images.
        detections: number of detections followed.
        steps: number of steps of every curve.
        threshold: minimum score of a followed detection.
        muted: mean score with all cross-attention muted, relative to the undisturbed one.
        summaries: one for each method, place and direction.
        sanity: rank correlations after shuffling parameters; empty where the check was skipped.
    """

    model: str
    data: str
    images: int
    detections: int
    steps: int
    threshold: float
    muted: float
    summaries: tuple[Summary, ...]
    sanity: tuple[Sanity, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def measure_faithfulness(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    count: int = 100,
    threshold: float = 0.5,
    steps: int = 16,
    methods: Sequence[str] = (),
    sanity: int = 20,
) -> Faithfulness:
    """Return deletion and insertion curves of every method over the detections in the first images of a dataset.

    Keys are hidden from all cross-attention: with a bias of -inf where attention is dense (the softmax renormalises
    what remains), with a gain of 0 where it is deformable. Hidden pixels get the mean colour; in insertion, pixels not
    yet shown are blurred.

    Args:
        detector: the model.
        dataset: its first images are used.
        count: number of images.
        threshold: minimum score of a followed detection.
        steps: steps of every curve.
        methods: names of `EXPLAINERS`; where empty, all that the engine allows. The random order is always included.
        sanity: number of images for the check with shuffled parameters; 0 skips it.

    Raises:
        UserError: an argument out of range, an unknown method, or no detection to follow.
    """
    check_faithfulness_arguments(count, steps, sanity, methods)
    chosen = choose_methods(detector, methods)
    if sanity and not isinstance(detector.engine, TorchEngine):
        log.warning("the check with shuffled parameters needs PyTorch; it is left out")
        sanity = 0
    paths = [image.path for image in dataset.images[:count]]
    curves: list[Curve] = []
    muted: list[float] = []
    with progress() as bar:
        task = bar.add_task("images, hiding what each method ranks highest", total=len(paths))
        for done, path in enumerate(paths, start=1):
            cases = explain_detections(detector, path, threshold)
            part = 1 / (max(1, len(cases)) * (len(chosen) + RANDOM_ORDERS))
            for case in cases:
                runner = PerturbationRunner(detector, case)
                curves += _curves(runner, chosen, steps, len(muted), partial(bar.advance, task, part))
                muted.append(runner.muted)
            bar.update(task, completed=done)
    if not muted:
        raise UserError(
            f"{dataset.name}: nothing is detected with a score of {threshold} or more in {len(paths)} images"
        )
    return Faithfulness(
        model=detector.card.variant,
        data=dataset.name,
        images=len(paths),
        detections=len(muted),
        steps=steps,
        threshold=threshold,
        muted=fmean(muted),
        summaries=tuple(summarise_curves(curves, RANDOM)),
        sanity=tuple(sanity_check(detector, paths[:sanity], chosen, threshold)) if sanity else (),
    )


def check_faithfulness_arguments(count: int, steps: int, sanity: int, methods: Sequence[str]) -> None:
    """Check the arguments that do not depend on the model.

    Raises:
        UserError: a number out of range, or an unknown method.
    """
    for name, value, least in (("count", count, 1), ("steps", steps, 2), ("sanity", sanity, 0)):
        if value < least:
            raise UserError(f"{name} {value}: expected {least} or more")
    for method in methods:
        if method not in EXPLAINERS:
            raise UserError(f"method '{method}' is not known; {suggest_nearest(method, EXPLAINERS)}")


def _curves(
    runner: PerturbationRunner, methods: Sequence[str], steps: int, number: int, on_method: Callable[[], None]
) -> list[Curve]:
    """Return the curves of every method for one detection; `on_method` is called after each method."""
    generator = torch.Generator().manual_seed(number)
    weights = [(method, EXPLAINERS[method](runner.case)) for method in methods]
    tokens = runner.case.trace.tokens
    weights += [(RANDOM, torch.rand(tokens, generator=generator)) for _ in range(RANDOM_ORDERS)]
    curves = []
    for method, ranking in weights:
        for where, perturb in (("keys", runner.keys), ("pixels", runner.pixels)):
            for direction, scores in zip(("deletion", "insertion"), perturb(ranking, steps), strict=True):
                relative = tuple((scores / runner.undisturbed).tolist())
                curves.append(Curve(method, where, direction, number, relative))
        on_method()
    return curves


class PerturbationRunner:
    """Model on one image with parts of it hidden; follows the score of one detection.

    Attributes:
        undisturbed: score with nothing hidden.
        muted: score with all cross-attention muted, relative to `undisturbed`.
    """

    def __init__(self, detector: Detector, case: ExplainInput) -> None:
        self.detector = detector
        self.case = case
        self.images = case.normalised[None]  # [1, 3, h, w]
        record = case.trace.record(case.trace.site("decoder.cross"))
        self.dense = isinstance(record, DenseRecord)
        self.undisturbed = float(self._scores(self.images))
        self.muted = float(self._scores(self.images, [Gain(SITES, 0.0)])) / self.undisturbed
        self.blurred = _blur(self.images, BLUR * max(self.images.shape[-2:]))

    def keys(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the scores with keys deleted, and inserted, highest weight first: [steps + 1] each.

        One key is always left: a softmax over no keys is undefined.
        """
        counts = (curve_fractions(steps) * (len(weights) - 1)).round()
        hidden = torch.cat(
            [deletion_order_mask(weights, counts), ~deletion_order_mask(weights, counts + 1)]
        )  # [2 * (steps + 1), S]
        if self.dense:
            bias = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[:, None, None]  # [n, 1, 1, S]
            scores = self._scores(self.images.expand(len(hidden), -1, -1, -1), [Bias(SITES, bias)])
        else:
            edits = [Gain(SITES, 0.0, keys=tuple(row.nonzero()[:, 0].tolist())) for row in hidden]
            scores = torch.cat([self._scores(self.images, [edit]) for edit in edits])
        return scores[: steps + 1], scores[steps + 1 :]

    def pixels(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the scores with pixels deleted, and inserted, highest weight first: [steps + 1] each."""
        importance = _over_pixels(self.case.trace, weights)  # [h, w]
        counts = (curve_fractions(steps) * importance.numel()).round()
        first = deletion_order_mask(importance.flatten(), counts).view(
            -1, 1, *importance.shape
        )  # [steps + 1, 1, h, w]
        deletion = self._scores(torch.where(first, 0.0, self.images))  # 0 is the mean colour
        insertion = self._scores(torch.where(first, self.images, self.blurred))
        return deletion, insertion

    def _scores(self, images: Tensor, edits: Sequence[Edit] = ()) -> Tensor:
        """Return the score of the detection in each image, [B] on the CPU."""
        outputs = self.detector.predict(images, probe=Probe(sites=[], edits=edits))
        return curve_detection_score(outputs, self.case.detected, self.detector.card.scoring).float().cpu()


def _over_pixels(trace: TraceData, weights: Tensor) -> Tensor:
    """Return weights of tokens [S] as a smooth map over the pixels of the model's input, [h, w]."""
    parts = split_attention_by_level(weights.float(), trace.levels)
    geometry = trace.geometry.of_model_input()
    return AttentionMap(
        parts, tuple(range(len(parts))), geometry, trace.image, Selection("weights")
    ).on_image()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Return the images after a Gaussian blur, [B, 3, H, W]."""
    reach = int(3 * sigma) + 1
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = (-0.5 * (offset / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)  # [3, 1, k]
    x = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    x = F.conv2d(x, kernel[:, :, None], groups=3)
    return F.conv2d(x, kernel[..., None], groups=3)
