"""What ImageNet weights of the backbone are worth: sprints from scratch and on EfficientNet-Lite0, at equal compute.

    python -m benchmarks.pretrained_backbone --task photographs --data coco:coco-tiny --minutes 10
    python -m benchmarks.pretrained_backbone --task cells-40 --data coco:bccd --steps 600 --seeds 0 1 2
    python -m benchmarks.pretrained_backbone --task cells --data coco:bccd --minutes 5 --arms scratch frozen --choose

Tasks: `cells` is BCCD, train -> val; `cells-40` learns from 40 of its training images, drawn by the seed; `photographs`
are the pictures of a small part of COCO with the commonest classes, seed N being part N of a three-fold
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
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import detrscope as ds
from benchmarks.ratio import machine
from detrscope.core.classes import ClassTable
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.data.write_coco import write_coco
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
    "photographs": Task("photos", (2, 3, 4), (0.12, 0.25, 0.5), split_photographs),
}


class TimedArm:
    """An arm's training step, measured in CPU seconds."""

    def __init__(self, preset: str, overrides: Mapping[str, Any]) -> None:
        config = resolve_precision(resolve_run(preset=preset, overrides=overrides))
        fabric = make_fabric(config.train)
        fabric.launch()
        dataset, _ = open_training_data(config)
        seed_all(config.train.seed)
        loaded, config = make_training_model(config, dataset, fresh=True)
        loader = make_training_loader(config, dataset, loaded.card, fabric)
        self.train_step = TrainStep(loaded.model, config.train, fabric)
        plan = TrainPlan.of(config.train, loader)
        self.schedule = make_schedule(config.train.schedule, plan.steps_per_epoch, plan.total_steps)
        self.steps_per_epoch, self.precision = plan.steps_per_epoch, config.train.precision
        self.batches = chain.from_iterable(_epochs(loader))
        self.seconds: list[float] = []
        self.train_step.train_mode()

    def step(self, number: int) -> None:
        """Take a step, the loading of its images included."""
        started = time.process_time()
        for batch in islice(self.batches, 1):
            self.train_step.step([batch], number, self.schedule)
        self.seconds.append(time.process_time() - started)


def _epochs(loader: Any) -> Iterator[Any]:
    for epoch in count():
        loader.set_epoch(epoch)
        yield loader


def measure(preset: str, arms: Mapping[str, Overrides]) -> tuple[dict[str, float], int]:
    """Return the median CPU seconds of a step of each arm, measured in turns, and the steps of an epoch."""
    timed = {name: TimedArm(preset, overrides) for name, overrides in arms.items()}
    for number in range(COLD + ROUNDS):
        for arm in timed.values():
            arm.step(number)
    seconds = {name: statistics.median(arm.seconds[COLD:]) for name, arm in timed.items()}
    return seconds, next(iter(timed.values())).steps_per_epoch


def train(preset: str, overrides: Overrides, steps: int, steps_per_epoch: int, out: Path) -> dict[str, float]:
    """Train for some steps and return the numbers of the evaluation after the last one."""
    epochs = -(-steps // steps_per_epoch)
    length = {"train.epochs": epochs, "train.max_steps": steps, "train.evaluate_every": epochs}
    ds.train(preset=preset, data=overrides["data.source"], out=out, overrides={**overrides, **length})
    row: dict[str, float] = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return row


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
        seconds, per_epoch = measure(task.preset, {n: {**arm, **quiet, **first} for n, arm in arms.items()})
        reference = seconds[arguments.arms[0]]
        total = arguments.steps * reference if arguments.steps else arguments.minutes * 60
        rows = {}
        for seed in arguments.seeds:
            for name, arm in arms.items():
                settings = {**arm, **quiet, "data.source": sources[seed], "train.seed": seed}
                steps = max(1, round(total / seconds[name]))
                numbers = train(
                    task.preset, settings, steps, per_epoch, folder / f"{name}-{seed}".replace(" ", "-")
                )
                rows[name, seed] = {"steps": steps, "AP": numbers["val/AP"], "AP50": numbers["val/AP50"]}
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
            values = [100 * rows[name, seed][metric] for seed in seeds]
            cells.append(f"{statistics.mean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})")
        print(f"| {name} | {seconds[name]:.3f} | {rows[name, seeds[0]]['steps']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
