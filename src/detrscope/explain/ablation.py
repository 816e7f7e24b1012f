"""Ablation: each head, level, layer and group of queries is muted in turn; what that does to boxes, scores and AP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from detrscope.core.edits import Gain
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.data.dataset import DetectionDataset
from detrscope.evaluation.evaluator import Evaluator
from detrscope.inference.detector import Detector
from detrscope.lens.changes import detection_changes
from detrscope.ops.edits import edit_has_query_keys

UnitKind = Literal["layer", "head", "level", "queries"]
GROUPS = 10  # of queries


@dataclass(frozen=True)
class Unit:
    """A part of the model that can be muted.

    Attributes:
        kind: what it is.
        site: its attention site; for queries, the cross-attention of all decoder layers.
        name: name within its site: `all`, `head 3`, `level 0`, `queries 0-9`.
        edit: text of the edit that mutes it, as `--edit` takes it.
    """

    kind: UnitKind
    site: str
    name: str
    edit: str


@dataclass(frozen=True)
class Effect:
    """What muting a unit does.

    Attributes:
        unit: what was muted.
        score: change of the detections' scores, mean over those of the undisturbed model; that of a vanished one counts
            to what is left of it below the threshold.
        iou: overlap of each detection with its box of before, mean over those that are still there; 1 where none is.
        vanished: detections that are no longer there.
        appeared: new detections.
        ap: change of AP; None where no dataset was evaluated.
        ap50: change of AP at IoU 0.5.
    """

    unit: Unit
    score: float | None = None
    iou: float | None = None
    vanished: int | None = None
    appeared: int | None = None
    ap: float | None = None
    ap50: float | None = None

    @property
    def loss(self) -> float:
        """By which effects are ordered: the fall of AP, or of the scores."""
        change = self.ap if self.ap is not None else self.score
        return -(change or 0.0)


@dataclass(frozen=True)
class Ablation:
    """Effects of muting each part of a model in turn.

    Attributes:
        model: name of the model.
        source: dataset, or number of images.
        images: number of images.
        detections: detections of the undisturbed model; None for a dataset.
        ap: AP of the undisturbed model on the dataset; None for images.
        effects: of all units, in the order of the path.
    """

    model: str
    source: str
    images: int
    detections: int | None
    ap: float | None
    effects: tuple[Effect, ...]

    def strongest(self) -> list[Effect]:
        """Return the effects, those that lose most first."""
        return sorted(self.effects, key=lambda effect: -effect.loss)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        effects = [{**asdict(effect.unit), **_plain(effect)} for effect in self.effects]
        return {**{k: v for k, v in vars(self).items() if k != "effects"}, "effects": effects}


def units_of(trace: TraceData, groups: int = GROUPS) -> list[Unit]:
    """Return the parts of a model that can be muted: layers, heads and levels of each site, and groups of queries.

    Args:
        trace: a trace of the model with all sites.
        groups: number of groups of queries; 0 for none.
    """
    units: list[Unit] = []
    for site, record in trace.records.items():
        units.append(Unit("layer", site, "all", Gain(site).describe()))
        for head in range(record.shape[0]):
            units.append(Unit("head", site, f"head {head}", Gain(site, heads=(head,)).describe()))
        levels = trace.levels_at(site)
        if len(levels) > 1 and not edit_has_query_keys(site):
            for level in range(len(levels)):
                units.append(Unit("level", site, f"level {level}", Gain(site, levels=(level,)).describe()))
    crosses = "decoder.*.cross"
    if groups and trace.sites_of("decoder.cross"):
        size = -(-trace.queries // groups)
        for first in range(0, trace.queries, size):
            last = min(first + size, trace.queries) - 1
            edit = Gain(crosses, queries=tuple(range(first, last + 1)))
            name = f"queries {first}-{last}" if last > first else f"query {first}"
            units.append(Unit("queries", crosses, name, edit.describe()))
    return units


def ablate_images(
    detector: Detector,
    images: Sequence[Tensor],
    threshold: float,
    *,
    groups: int = GROUPS,
    source: str = "",
    track: Callable[[Sequence[Unit]], Iterator[Unit]] = iter,
) -> Ablation:
    """Mute each part in turn, and compare the detections in images with those of the undisturbed model.

    Args:
        detector: the model; its own edits stay.
        images: uint8 [3, H, W] each, upright.
        threshold: minimum score of a detection.
        groups: number of groups of queries; 0 for none.
        source: name of the images in the result.
        track: wraps the units, to show progress.

    Raises:
        UserError: no image, or no detection in any of them.
    """
    if not images:
        raise UserError("ablate: expected at least one image")
    before = [detector.trace(image, sites=[]) for image in images]
    count = sum(len(trace.detections(threshold)) for trace in before)
    if not count:
        raise UserError(
            f"nothing scores {threshold:g} or more in {len(images)} images: there is no detection to follow;"
            " choose a lower threshold"
        )
    effects = []
    for unit in track(units_of(detector.trace(images[0]), groups)):
        changes = []
        for image, old in zip(images, before, strict=True):
            changes += detection_changes(old, detector.trace(image, sites=[], edits=[unit.edit]), threshold)
        followed = [change for change in changes if change.before is not None]
        kept = [change.iou for change in followed if change.after is not None]
        effects.append(
            Effect(
                unit,
                score=sum(change.score_change for change in followed) / len(followed),
                iou=sum(kept) / len(kept) if kept else 1.0,
                vanished=sum(change.kind == "vanished" for change in changes),
                appeared=sum(change.kind == "appeared" for change in changes),
            )
        )
    return Ablation(detector.card.variant, source, len(images), count, None, tuple(effects))


def ablate_dataset(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    groups: int = GROUPS,
    batch_size: int = 1,
    workers: int = 0,
    track: Callable[[Sequence[Unit]], Iterator[Unit]] = iter,
) -> Ablation:
    """Mute each part in turn, and evaluate AP on a dataset.

    Args:
        detector: the model; its own edits stay.
        dataset: images and ground truth.
        groups: number of groups of queries; 0 for none.
        batch_size: images in a batch.
        workers: processes that read images; 0 reads them in this one.
        track: wraps the units, to show progress.

    Raises:
        UserError: the dataset is empty, or the model lacks one of its classes.
    """
    if not len(dataset):
        raise UserError(f"{dataset.name}: has no images")
    evaluator = Evaluator(dataset, detector.card, batch_size=batch_size, workers=workers)

    def evaluated(one: Detector) -> tuple[float, float]:
        summary = evaluator(lambda batch: one.predict(batch.images, batch.padding)).evaluation.summary()
        return summary["AP"] or 0.0, summary["AP50"] or 0.0

    ap, ap50 = evaluated(detector)
    trace = detector.trace(dataset.images[0].path)
    effects = []
    for unit in track(units_of(trace, groups)):
        muted, muted50 = evaluated(detector.edited([unit.edit]))
        effects.append(Effect(unit, ap=muted - ap, ap50=muted50 - ap50))
    return Ablation(detector.card.variant, dataset.name, len(dataset), None, ap, tuple(effects))


def _plain(effect: Effect) -> dict[str, Any]:
    return {name: value for name, value in vars(effect).items() if name != "unit" and value is not None}
