"""Faithfulness measured on a model and a dataset: hide what a map ranks highest and see whether the detection goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.console import progress
from detrscope.core.attention_map import AttentionMap, Selection, parts_of
from detrscope.core.edits import Bias, Edit, Gain
from detrscope.core.errors import UserError, nearest
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Batch, Outputs
from detrscope.data.dataset import DetectionDataset
from detrscope.explain.explainers import EXPLAINERS, RANDOM, ExplainInput, explain_inputs_in
from detrscope.explain.sanity import sanity_check
from detrscope.inference.detector import Detector
from detrscope.lens.faithfulness import (
    Curve,
    Sanity,
    Summary,
    detection_score,
    first_of,
    fractions,
    summarise,
)

SITES = "decoder.*.cross"  # where keys are hidden
RANDOM_ORDERS = 3  # for each detection
BLUR = 0.08  # standard deviation of the blur that insertion starts from, as a part of the image's longer side


@dataclass(frozen=True)
class Faithfulness:
    """What was measured.

    Attributes:
        model: its variant.
        data: the name of the dataset.
        images: how many were looked at.
        detections: how many were followed.
        steps: of every curve.
        threshold: least score of a detection that is followed.
        summaries: a line for each method, place and direction.
        muted: mean score, as a part of the undisturbed one, with all cross-attention muted.
        sanity: rank correlations after shuffling parameters; empty where not asked for.
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
        """Plain data."""
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
        methods: names of `EXPLAINERS`; all of them where empty. The random order is always included.
        sanity: number of images for the check with shuffled parameters; 0 skips it.

    Raises:
        UserError: an argument out of range, an unknown method, or no detection to follow.
    """
    check_arguments(count, steps, sanity, methods)
    chosen = [*methods] or [*EXPLAINERS]
    paths = [image.path for image in dataset.images[:count]]
    curves: list[Curve] = []
    muted: list[float] = []
    with progress() as bar:
        task = bar.add_task("images, hiding what each method ranks highest", total=len(paths))
        for done, path in enumerate(paths, start=1):
            cases = [*explain_inputs_in(detector, path, threshold)]
            part = 1 / (max(1, len(cases)) * (len(chosen) + RANDOM_ORDERS))
            for case in cases:
                hide = PerturbationRunner(detector, case)
                curves += _curves(hide, chosen, steps, len(muted), partial(bar.advance, task, part))
                muted.append(hide.muted)
            bar.update(task, completed=done)
    if not muted:
        raise UserError(
            f"{dataset.name}: nothing was found with a score of {threshold} or more in {len(paths)} images"
        )
    checked = sanity_check(detector, paths[:sanity], chosen, threshold) if sanity else ()
    return Faithfulness(
        model=detector.card.variant,
        data=dataset.name,
        images=len(paths),
        detections=len(muted),
        muted=fmean(muted),
        steps=steps,
        threshold=threshold,
        summaries=tuple(summarise(curves, RANDOM)),
        sanity=tuple(checked),
    )


def check_arguments(count: int, steps: int, sanity: int, methods: Sequence[str]) -> None:
    """Check the arguments that do not depend on the model.

    Raises:
        UserError: a number out of range, or an unknown method.
    """
    for name, value, least in (("count", count, 1), ("steps", steps, 2), ("sanity", sanity, 0)):
        if value < least:
            raise UserError(f"{name} {value}: expected {least} or more")
    for method in methods:
        if method not in EXPLAINERS:
            raise UserError(f"method '{method}' is not known; {nearest(method, EXPLAINERS)}")


def _curves(
    hide: PerturbationRunner, methods: Sequence[str], steps: int, number: int, on_method: Callable[[], None]
) -> list[Curve]:
    """Return the curves of every method for one detection; `on_method` is called after each method."""
    generator = torch.Generator().manual_seed(number)
    weights = [(method, EXPLAINERS[method](hide.case)) for method in methods]
    weights += [
        (RANDOM, torch.rand(hide.case.trace.tokens, generator=generator)) for _ in range(RANDOM_ORDERS)
    ]
    curves = []
    for method, one in weights:
        for where, deletion, insertion in (
            ("keys", *hide.keys(one, steps)),
            ("pixels", *hide.pixels(one, steps)),
        ):
            curves.append(Curve(method, where, "deletion", number, _relative(deletion, hide.whole)))
            curves.append(Curve(method, where, "insertion", number, _relative(insertion, hide.whole)))
        on_method()
    return curves


def _relative(scores: Tensor, whole: float) -> tuple[float, ...]:
    return tuple((scores / whole).tolist())


class PerturbationRunner:
    """Runs the model on one image with parts of it hidden, and follows one detection."""

    def __init__(self, detector: Detector, case: ExplainInput) -> None:
        self.detector = detector
        self.case = case
        self.images = case.normalised[None]  # [1, 3, h, w]
        record = case.trace.record(case.trace.site("decoder.cross"))
        self.dense = isinstance(record, DenseRecord)
        self.whole = float(self._scores(self.images))
        self.muted = float(self._scores(self.images, [Gain(SITES, 0.0)])) / self.whole
        side = max(self.images.shape[-2:])
        self.blurred = _blur(self.images, BLUR * side)

    def keys(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Scores with keys hidden, and shown, the highest first: [steps + 1] each.

        One key is always left: a softmax over none has no meaning.
        """
        counts = (fractions(steps) * (len(weights) - 1)).round()
        hidden = torch.cat(
            [first_of(weights, counts), ~first_of(weights, counts + 1)]
        )  # [2 * (steps + 1), S]
        if self.dense:
            scores = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[
                :, None, None
            ]  # [n, 1, 1, S]
            images = self.images.expand(len(hidden), -1, -1, -1)
            found = self._scores(images, [Bias(SITES, scores)])
        else:
            edits = [Gain(SITES, 0.0, keys=tuple(one.nonzero()[:, 0].tolist())) for one in hidden]
            found = torch.cat([self._scores(self.images, [edit]) for edit in edits])
        deletion, insertion = found.split(steps + 1)
        return deletion, insertion

    def pixels(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Scores with pixels hidden, and shown, the highest first: [steps + 1] each."""
        importance = _over_seen(self.case.trace, weights)  # [h, w]
        counts = (fractions(steps) * importance.numel()).round()
        first = first_of(importance.flatten(), counts).view(-1, 1, *importance.shape)  # [steps + 1, 1, h, w]
        deletion = self._scores(torch.where(first, 0.0, self.images))  # 0 is the mean colour
        insertion = self._scores(torch.where(first, self.images, self.blurred))
        return deletion, insertion

    @torch.no_grad()
    def _scores(self, images: Tensor, edits: Sequence[Edit] = ()) -> Tensor:
        """[B] on the CPU."""
        detector = self.detector
        batch = Batch(images.to(device=detector.device, dtype=detector.dtype))
        outputs: Outputs = detector.model(batch, probe=Probe(sites=[], edits=edits))
        return detection_score(outputs, self.case.detected, detector.card.scoring).float().cpu()


def _over_seen(trace: TraceData, weights: Tensor) -> Tensor:
    """Weights of tokens [S] as a smooth map over the pixels of what the model saw: [h, w]."""
    parts = parts_of(weights.float(), trace.levels)
    seen = AttentionMap(
        parts, tuple(range(len(parts))), trace.geometry.of_seen(), trace.image, Selection("weights")
    )
    return seen.on_image()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, [B, 3, H, W] -> [B, 3, H, W]."""
    reach = int(3 * sigma) + 1
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = (-0.5 * (offset / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)  # [3, 1, k]
    x = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    x = F.conv2d(x, kernel[:, :, None], groups=3)
    return F.conv2d(x, kernel[..., None], groups=3)
