"""What ImageNet weights of the backbone are worth: sprints from scratch and on EfficientNet-Lite0, at equal compute.

    python -m benchmarks.pretrained_backbone --task photographs --data coco:coco-tiny --minutes 10
    python -m benchmarks.pretrained_backbone --task cells-40 --data coco:bccd --steps 600 --seeds 0 1 2
    python -m benchmarks.pretrained_backbone --task cells --data coco:bccd --minutes 5 --arms scratch frozen --choose

Tasks: `cells` is BCCD, train -> val; `cells-40` learns from 40 of its training images, drawn by the seed, and
`cells-10-each` and `cells-50-each` from so few that 10 or 50 images show each class; `photographs` are the pictures of
a small part of COCO with the commonest classes, seed N being part N of a three-fold
cross-validation. `--choose` takes another split than the one reported: training images that are left out, or other
folds of the same photographs. A step of every arm is measured first, in turns, in CPU seconds of this process;
`--steps` are those of the first arm, and the others take as many as cost the same. `--minutes` are CPU minutes on all
cores used, so that other work on the machine changes nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.ratio import machine
from detrscope.core.classes import ClassTable
from detrscope.data.dataset import DetectionDataset
from detrscope.data.loader import DetectionLoader
from detrscope.data.open_dataset import open_dataset
from detrscope.data.write_coco import write_coco
from detrscope.evaluation.evaluator import Evaluator
from detrscope.evaluation.predict import ModulePredictor
from detrscope.ops.kernels.native_precision import DTYPES
from detrscope.training.launch import make_fabric, resolve_precision
from detrscope.training.plan import TrainPlan
from detrscope.training.schedule import make_schedule
from detrscope.training.setup import (
    make_training_loader,
    make_training_model,
    open_training_data,
    resolve_run,
)
from detrscope.training.train_state import seed_all
from detrscope.training.train_step import TrainStep

COLD, ROUNDS = 3, 8  # steps that are not measured, and those that are
FOLDS = 3
COMMONEST = 2  # classes of the photographs
FEW = 40
CHOOSING_SEED = 100  # of splits on which recipes are chosen

Overrides = dict[str, Any]
MOSAIC: Overrides = {"augment.mosaic": 0.3}
PASTE: Overrides = {"augment.copy_paste": 0.5}


def lite(stages: tuple[int, ...], sizes: tuple[float, ...], **overrides: Any) -> Overrides:
    """Return the settings of a sprint on EfficientNet-Lite0."""
    return {
        "model.variant": "sprint-lite-0",
        "model.backbone_weights": "imagenet",
        "model.overrides": {
            "queries": 60,
            "sizes": sizes,
            "backbone": {"stages": stages, **overrides.pop("backbone", {})},
            "decoder": {"points": (4,) * len(stages)},
        },
        **overrides,
    }


@dataclass(frozen=True)
class Task:
    """A preset, its arms, and how its data is split."""

    preset: str
    stages: tuple[int, ...]
    sizes: tuple[float, ...]
    split: Callable[[str, int, bool], dict[str, DetectionDataset]]

    def arms(self) -> dict[str, Overrides]:
        """Return the settings of every recipe by its name."""
        on_lite = lambda **overrides: lite(self.stages, self.sizes, **overrides)  # noqa: E731
        slow = {"train.lr_factors": {"backbone.*": 0.1}}
        return {
            "scratch": {},
            "frozen": on_lite(**{"train.lr_backbone": 0.0}),
            "last two": on_lite(backbone={"trainable_stages": 2}, **slow),
            "last two, muon": on_lite(backbone={"trainable_stages": 2}, **{"train.lr_backbone": 2e-4}),
            "all": on_lite(**slow),
            "scratch, copy-paste": PASTE,
            "frozen, mosaic": on_lite(**{"train.lr_backbone": 0.0}, **MOSAIC),
            "frozen, copy-paste": on_lite(**{"train.lr_backbone": 0.0}, **PASTE),
            "random lite": {
                **on_lite(backbone={"norm": "trainable", "depthwise": "trainable"}),
                "model.backbone_weights": "none",
            },
        }


def split_cells(source: str, seed: int, choosing: bool) -> dict[str, DetectionDataset]:
    """Return train and val; for choices, a fifth of the training images is the val."""
    train = open_dataset(source, "train")
    if not choosing:
        return {"train": train, "val": open_dataset(source, "val")}
    ids = shuffled(train, CHOOSING_SEED)
    return {"train": train.subset(ids[len(ids) // 5 :]), "val": train.subset(ids[: len(ids) // 5])}


def split_few_cells(source: str, seed: int, choosing: bool) -> dict[str, DetectionDataset]:
    """Return some of the training images, drawn by the seed, and val."""
    parts = split_cells(source, seed, choosing)
    return {**parts, "train": parts["train"].subset(shuffled(parts["train"], seed)[:FEW])}


def split_by_class(images: int, source: str, seed: int, choosing: bool) -> dict[str, DetectionDataset]:
    """Return as many training images, drawn by the seed, as it takes until so many show each class, and val."""
    parts = split_cells(source, seed, choosing)
    train, drawn, kept = parts["train"], Counter[int](), []
    for key in shuffled(train, seed):
        shown = {a.category_id for a in train.annotations[key]}
        if any(drawn[category] < images for category in shown):
            kept.append(key)
            drawn.update(shown)
    return {**parts, "train": train.subset(kept)}


def split_photographs(source: str, seed: int, choosing: bool) -> dict[str, DetectionDataset]:
    """Return fold `seed` of the images of both splits that show the commonest classes as val, the others as train."""
    train, val = open_dataset(source, "train"), open_dataset(source, "val")
    annotations = {**train.annotations, **val.annotations}
    images_with = Counter(c for rows in annotations.values() for c in {a.category_id for a in rows})
    wanted = sorted(category for category, _ in images_with.most_common(COMMONEST))
    named = dict(zip(train.classes.ids, train.classes.names, strict=True))
    kept = {key: tuple(a for a in rows if a.category_id in wanted) for key, rows in annotations.items()}
    whole = replace(
        train,
        images=tuple(image for image in (*train.images, *val.images) if kept[image.id]),
        annotations=kept,
        classes=ClassTable(tuple(wanted), tuple(named[category] for category in wanted)),
        unusable={},
    )
    ids = shuffled(whole, CHOOSING_SEED if choosing else 0)
    fold = ids[seed % FOLDS :: FOLDS]
    return {"train": whole.subset(i for i in ids if i not in fold), "val": whole.subset(fold)}


def shuffled(dataset: DetectionDataset, seed: int) -> list[int]:
    """Return the ids of the images in an order that the seed gives."""
    ids = sorted(image.id for image in dataset.images)
    random.Random(seed).shuffle(ids)
    return ids


TASKS = {
    "cells": Task("bccd", (2, 3), (0.08, 0.2), split_cells),
    "cells-40": Task("bccd", (2, 3), (0.08, 0.2), split_few_cells),
    "cells-10-each": Task("bccd", (2, 3), (0.08, 0.2), partial(split_by_class, 10)),
    "cells-50-each": Task("bccd", (2, 3), (0.08, 0.2), partial(split_by_class, 50)),
    "photographs": Task("photos", (2, 3, 4), (0.12, 0.25, 0.5), split_photographs),
}


class Training:
    """A training without its run folder: steps, then the AP of the average of its weights.

    The folder's files, written after every epoch, would take more time than an epoch of a few images.
    """

    def __init__(self, preset: str, overrides: Mapping[str, Any], steps: int) -> None:
        length = {"train.epochs": steps, "train.max_steps": steps}
        self.config = resolve_precision(resolve_run(preset=preset, overrides={**overrides, **length}))
        self.fabric = make_fabric(self.config.train)
        self.fabric.launch()
        dataset, self.val = open_training_data(self.config)
        seed_all(self.config.train.seed)
        self.loaded, config = make_training_model(self.config, dataset, fresh=True)
        loader = make_training_loader(config, dataset, self.loaded.card, self.fabric)
        self.train_step = TrainStep(self.loaded.model, config.train, self.fabric)
        plan = TrainPlan.of(config.train, loader)
        self.schedule = make_schedule(config.train.schedule, plan.steps_per_epoch, plan.total_steps)
        self.batches = _batches(loader)
        self.seconds: list[float] = []
        self.train_step.train_mode()

    def step(self) -> None:
        """Take a step, the loading of its images included."""
        started = time.process_time()
        self.train_step.step([next(self.batches)], len(self.seconds), self.schedule)
        self.seconds.append(time.process_time() - started)

    def evaluate(self) -> dict[str, float]:
        """Return AP and AP50, 0..100, of the average of the weights."""
        precision = self.config.train.precision
        assert precision != "auto" and self.val is not None
        model = self.train_step.eval_model.eval()
        autocast = None if precision == "fp32" else DTYPES[precision]
        evaluator = Evaluator(self.val, self.loaded.card, batch_size=8, workers=0)
        scores = evaluator(ModulePredictor(model, self.fabric.device, autocast)).evaluation.summary()
        return {name: 100 * scores[name] for name in ("AP", "AP50")}


def _batches(loader: DetectionLoader) -> Iterator[Any]:
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def measure(preset: str, arms: Mapping[str, Overrides]) -> dict[str, float]:
    """Return the median CPU seconds of a step of each arm, measured in turns."""
    trainings = {name: Training(preset, overrides, 1000) for name, overrides in arms.items()}
    for _ in range(COLD + ROUNDS):
        for training in trainings.values():
            training.step()
    return {name: statistics.median(training.seconds[COLD:]) for name, training in trainings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", required=True, help="coco:bccd, or a small part of COCO")
    parser.add_argument("--arms", nargs="+", default=["scratch", "last two"], help="recipes, see Task.arms")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="of the first arm")
    length.add_argument("--minutes", type=float, help="CPU minutes of each training")
    parser.add_argument("--short-side", type=int, help="of the images, in pixels, in place of the preset's")
    parser.add_argument("--choose", action="store_true", help="on a split that is not reported")
    parser.add_argument("--out", type=Path, help="a folder to keep the runs in, and the table as JSON")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    arms = {name: task.arms()[name] for name in arguments.arms}
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        sources = {}
        for seed in arguments.seeds:
            write_coco(task.split(arguments.data, seed, arguments.choose), folder / f"data-{seed}", "link")
            sources[seed] = f"coco:{folder / f'data-{seed}'}"
        quiet = {"data.workers": 0, "data.cache": True, "train.recording.count": 0}
        if side := arguments.short_side:
            quiet |= {"data.short_side": side, "data.long_side": side * 3 // 2}
        first = {"data.source": sources[arguments.seeds[0]]}
        seconds = measure(task.preset, {n: {**arm, **quiet, **first} for n, arm in arms.items()})
        reference = seconds[arguments.arms[0]]
        total = arguments.steps * reference if arguments.steps else arguments.minutes * 60
        rows = {}
        for seed in arguments.seeds:
            for name, arm in arms.items():
                settings = {**arm, **quiet, "data.source": sources[seed], "train.seed": seed}
                steps = max(1, round(total / seconds[name]))
                training = Training(task.preset, settings, steps)
                for _ in range(steps):
                    training.step()
                rows[name, seed] = {"steps": steps, "seconds": sum(training.seconds), **training.evaluate()}
                print(name, seed, rows[name, seed], flush=True)
        _print_table(arms, arguments.seeds, rows, seconds)
        if arguments.out:
            table = [{"arm": name, "seed": seed, **row} for (name, seed), row in rows.items()]
            (folder / "table.json").write_text(json.dumps(table, indent=1))


def _print_table(
    arms: Mapping[str, Overrides],
    seeds: list[int],
    rows: Mapping[tuple[str, int], Mapping[str, float]],
    seconds: Mapping[str, float],
) -> None:
    print(
        "\n| recipe | CPU seconds a step | steps | AP, mean (each) | AP50, mean (each) |\n|---|---|---|---|---|"
    )
    for name in arms:
        cells = []
        for metric in ("AP", "AP50"):
            values = [rows[name, seed][metric] for seed in seeds]
            cells.append(f"{statistics.mean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})")
        print(f"| {name} | {seconds[name]:.3f} | {rows[name, seeds[0]]['steps']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
