"""Faithfulness measured on a model and a dataset: hide what a map ranks highest and follow the detection's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any, get_args

import torch
from torch import Tensor

from detrscope.console import log, progress
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.data.dataset import DetectionDataset
from detrscope.explain.explainers import EXPLAINERS, RANDOM, ExplainInput, choose_methods, explain_detections
from detrscope.explain.masked_images import MASKS
from detrscope.explain.perturbation import PerturbationRunner
from detrscope.explain.pointing_games import PointingGames, Region
from detrscope.explain.sanity import sanity_check
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine
from detrscope.lens.deletion_curves import Curve, Sanity, Summary, summarise_curves
from detrscope.lens.explained import ExplainedDetection
from detrscope.lens.pointing import PointingSummary, summarise_pointing

RANDOM_ORDERS = 3  # per detection


@dataclass(frozen=True)
class FaithfulnessOptions:
    """What is measured.

    Attributes:
        count: number of images, the first ones.
        threshold: minimum score of a followed detection.
        steps: steps of every curve.
        methods: names of `EXPLAINERS`; where empty, all that the engine allows but VPS. The random order is always
            included.
        sanity: number of images for the check with shuffled parameters; 0 skips it.
        region: where the pointing games expect a map's maximum: the box of the annotated object, or its badge.
        masks: masks of D-RISE for each image.
    """

    count: int = 100
    threshold: float = 0.5
    steps: int = 16
    methods: Sequence[str] = ()
    sanity: int = 20
    region: Region = "box"
    masks: int = MASKS

    def check(self) -> None:
        """Check what does not depend on the model.

        Raises:
            UserError: a number out of range, an unknown region, or an unknown method.
        """
        least = {"count": 1, "steps": 2, "sanity": 0, "masks": 1}
        for name, lowest in least.items():
            if (value := getattr(self, name)) < lowest:
                raise UserError(f"{name} {value}: expected {lowest} or more")
        if self.region not in get_args(Region):
            raise UserError(
                f"region '{self.region}' is not known; {suggest_nearest(self.region, get_args(Region))}"
            )
        for method in self.methods:
            if method not in EXPLAINERS:
                raise UserError(f"method '{method}' is not known; {suggest_nearest(method, EXPLAINERS)}")


OPTIONS = FaithfulnessOptions()


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
        region: region of the pointing games.
        pointing: one for each method, over the detections that match an annotated object; empty where none does.
        unmatched: number of detections that match none, and so take no part in the pointing games.
        sanity: rank correlations after shuffling parameters; empty where the check was skipped.
        examples: maps of the first detections that match an annotated object.
    """

    model: str
    data: str
    images: int
    detections: int
    steps: int
    threshold: float
    muted: float
    summaries: tuple[Summary, ...]
    region: Region
    pointing: tuple[PointingSummary, ...]
    unmatched: int
    sanity: tuple[Sanity, ...]
    examples: tuple[ExplainedDetection, ...] = field(default=(), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without the maps of examples."""
        tree = asdict(replace(self, examples=()))
        del tree["examples"]
        return tree


def measure_faithfulness(
    detector: Detector, dataset: DetectionDataset, options: FaithfulnessOptions = OPTIONS
) -> Faithfulness:
    """Return how faithful every method is over the detections in the first images of a dataset.

    Keys are hidden from all cross-attention: with a bias of -inf where attention is dense (the softmax renormalises
    what remains), with a gain of 0 where it is deformable. Hidden pixels get the mean colour; in insertion, pixels not
    yet shown are blurred.

    Args:
        detector: the model.
        dataset: its first images are used.
        options: what is measured.

    Raises:
        UserError: an argument out of range, an unknown method, no detection to follow, or images without badges where
            they are the region.
    """
    options.check()
    chosen = choose_methods(detector, options.methods)
    sanity = options.sanity
    if sanity and not isinstance(detector.engine, TorchEngine):
        log.warning("the check with shuffled parameters needs PyTorch; it is left out")
        sanity = 0
    images = dataset.images[: options.count]
    curves: list[Curve] = []
    muted: list[float] = []
    games = PointingGames(detector.classes, dataset, options.region)
    seconds: list[float] = []
    with progress() as bar:
        task = bar.add_task("images, hiding what each method ranks highest", total=len(images))
        for done, image in enumerate(images, start=1):
            cases = explain_detections(detector, image.path, options.threshold, options.masks)
            regions = games.regions(image, cases)
            part = 1 / (max(1, len(cases)) * (len(chosen) + RANDOM_ORDERS))
            for case, region in zip(cases, regions, strict=True):
                weights = _weights(case, chosen, len(muted))
                games.play(case, weights, region, len(muted))
                runner = PerturbationRunner(detector, case)
                on_method = partial(bar.advance, task, part)
                curves += _curves(runner, weights, options.steps, len(muted), on_method)
                muted.append(runner.muted)
            seconds += [case.masked.seconds for case in cases[:1] if case.masked.seconds]
            bar.update(task, completed=done)
    if not muted:
        raise UserError(
            f"{dataset.name}: nothing is detected with a score of {options.threshold} or more in {len(images)} images"
        )
    if seconds:
        log.info("D-RISE: %d masks, %.1f s for each image", options.masks, fmean(seconds))
    games.report()
    paths = [image.path for image in images[:sanity]]
    return Faithfulness(
        model=detector.card.variant,
        data=dataset.name,
        images=len(images),
        detections=len(muted),
        steps=options.steps,
        threshold=options.threshold,
        muted=fmean(muted),
        summaries=tuple(summarise_curves(curves, RANDOM)),
        region=options.region,
        pointing=tuple(summarise_pointing(games.outcomes)),
        unmatched=games.unmatched,
        sanity=tuple(sanity_check(detector, paths, chosen, options.threshold, masks=options.masks))
        if sanity
        else (),
        examples=tuple(games.examples),
    )


def _weights(case: ExplainInput, methods: Sequence[str], number: int) -> list[tuple[str, Tensor]]:
    """Return the names of methods and their weights of all tokens [S], random ones last."""
    generator = torch.Generator().manual_seed(number)
    tokens = case.trace.tokens
    random = [(RANDOM, torch.rand(tokens, generator=generator)) for _ in range(RANDOM_ORDERS)]
    return [(method, EXPLAINERS[method](case)) for method in methods] + random


def _curves(
    runner: PerturbationRunner,
    weights: Sequence[tuple[str, Tensor]],
    steps: int,
    number: int,
    on_method: Callable[[], None],
) -> list[Curve]:
    """Return the curves of every method for one detection; `on_method` is called after each method."""
    curves = []
    for method, ranking in weights:
        for where, perturb in (("keys", runner.keys), ("pixels", runner.pixels)):
            for direction, scores in zip(("deletion", "insertion"), perturb(ranking, steps), strict=True):
                relative = tuple((scores / runner.undisturbed).tolist())
                curves.append(Curve(method, where, direction, number, relative))
        on_method()
    return curves
