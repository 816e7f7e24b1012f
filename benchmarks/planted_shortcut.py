"""A planted shortcut: which explanations of a detector point at the badge that decides the class?

Drawn dogs wear a badge whose colour alone tells "red dog" from "blue dog". Proved first: the detector uses it. With the
colours swapped (same pixels otherwise), the class of a found dog changes to the other one; without badges, the class is
a guess. Measured then, for every method of `detrscope faithfulness`: how often the maximum of its map lies in the badge
of the dog, and the share of its energy there, against the area of the badge. The row "the region itself" is a map that
knows the badge: what the size of the tokens allows.

    detrscope train --preset drawn-dogs --from sprint-dense-n --data drawn-dogs:count=2000,size=128,badge=class
    python -m benchmarks.planted_shortcut --model run

Exits 1 where fewer than 95% of the classes flip: then the ground truth does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import detrscope as ds
from detrscope.data.badge_masks import read_badge_mask
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.object_matching import LabelledBoxes, match_objects
from detrscope.explain.pointing_games import KNOWN
from detrscope.lens.pointing import PointingSummary

WANTED = 0.95  # share of the classes that must flip with the badge
FOUND = 0.8  # share of the detections whose badge a method must point at to count as finding it


@dataclass(frozen=True)
class BadgeUse:
    """How the classes of the annotated dogs depend on their badges.

    Attributes:
        dogs: dogs detected with their badge, with swapped colours, and without a badge.
        right: share of them that have their class with their badge.
        flipped: share of them that have the other class with swapped colours.
        images: images with such dogs.
        images_flipped: share of the images in which all of them have the other class.
        without: share of them that have their class without a badge; a guess is 50%.
    """

    dogs: int
    right: float
    flipped: float
    images: int
    images_flipped: float
    without: float


def classes_of_dogs(detector: ds.Detector, dataset: DetectionDataset, threshold: float) -> dict[int, str]:
    """Return the class of the detection on each annotated dog by annotation id, whatever the class; found ones only."""
    found = {}
    for image in dataset.images:
        rows = dataset.annotations[image.id]
        detections = detector.detect(image.path, threshold=threshold)
        if not rows or not len(detections.scores):
            continue
        corners = [[x, y, x + w, y + h] for x, y, w, h in (row.bbox_xywh for row in rows)]
        dogs = LabelledBoxes(torch.tensor(corners), torch.zeros(len(rows), dtype=torch.int64))
        boxes = LabelledBoxes(detections.boxes_xyxy, torch.zeros(len(detections.scores), dtype=torch.int64))
        for row, index in zip(rows, match_objects(dogs, boxes).tolist(), strict=True):
            if index >= 0:
                found[row.id] = detections.names[index]
    return found


def badge_use(detector: ds.Detector, options: str, threshold: float) -> BadgeUse:
    """Measure how the detected classes depend on the badges of the validation images of `drawn-dogs:OPTIONS`."""
    sets = {
        b: open_dataset(f"drawn-dogs:{options},badge={b}", "val") for b in ("class", "swapped", "removed")
    }
    classes = {badge: classes_of_dogs(detector, dataset, threshold) for badge, dataset in sets.items()}
    rows = [a for i in sets["class"].images for a in sets["class"].annotations[i.id]]
    rows = [a for a in rows if all(a.id in found for found in classes.values())]
    if not rows:
        raise SystemExit(f"no dog of drawn-dogs:{options} is detected with and without its badge")
    own = {a.id: sets["class"].classes.name_of(a.category_id) for a in rows}
    flips: dict[int, list[bool]] = {}
    for a in rows:
        flips.setdefault(a.image_id, []).append(classes["swapped"][a.id] != own[a.id])
    every = [flip for of_image in flips.values() for flip in of_image]
    return BadgeUse(
        dogs=len(rows),
        right=sum(classes["class"][a.id] == own[a.id] for a in rows) / len(rows),
        flipped=sum(every) / len(rows),
        images=len(flips),
        images_flipped=sum(map(all, flips.values())) / len(flips),
        without=sum(classes["removed"][a.id] == own[a.id] for a in rows) / len(rows),
    )


def away_from_middle(dataset: DetectionDataset, distance: float) -> DetectionDataset:
    """Return the images of one dog whose badge is farther than this (pixels, along x or y) from the middle of its box.

    A map that shows the dog and not the badge has its maximum near the middle, so elsewhere only the badge explains it.
    """
    kept = []
    for image in dataset.images:
        rows = dataset.annotations[image.id]
        if len(rows) != 1:
            continue
        x, y, width, height = rows[0].bbox_xywh
        down, across = torch.from_numpy(read_badge_mask(image.path) == 1).nonzero().double().unbind(-1)
        away = torch.maximum((across - x - width / 2).abs(), (down - y - height / 2).abs())
        if len(away) and float(away.min()) > distance:
            kept.append(image.id)
    return dataset.subset(kept)


def table(pointing: tuple[PointingSummary, ...]) -> str:
    """Return a Markdown table, the method that points at the badge most often first."""
    head = "| method | maximum within half a token of the badge | in the badge | energy in the badge | energy / area |"
    lines = [head, "|---|---|---|---|---|"]
    for s in sorted(pointing, key=lambda s: (s.method == KNOWN, -s.hits)):
        cells = [(s.hits, s.hits_error), (s.inside, s.inside_error), (s.energy, s.energy_error)]
        shown = [f"{100 * value:.1f}% ± {100 * error:.1f}" for value, error in cells]
        lines.append(f"| {s.method} | {' | '.join(shown)} | {s.energy / s.area:.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Check the shortcut, measure, print; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="run")
    parser.add_argument("--data", default="count=2000,size=128", help="options of drawn-dogs:")
    parser.add_argument("--count", type=int, default=100, help="images that explanations are measured on")
    parser.add_argument("--masks", type=int, default=1000, help="masks of D-RISE")
    parser.add_argument("--method", action="append", default=[], help="name of a method; all but VPS if none")
    parser.add_argument(
        "--steps", type=int, default=2, help="of the curves, which are not what is measured here"
    )
    parser.add_argument(
        "--away", type=float, help="only badges farther than these pixels from the middle of the box"
    )
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument(
        "--out", type=Path, help="folder for the results of `detrscope faithfulness` and use.json"
    )
    options = parser.parse_args()
    detector = ds.load(options.model, device="cpu")
    use = badge_use(detector, options.data, options.threshold)
    print(
        f"{detector.card.variant}: {use.dogs} dogs in {use.images} images are found with each kind of badge"
    )
    print(f"  class right with its badge {use.right:.1%}, without a badge {use.without:.1%}")
    print(
        f"  class flips with the badge: {use.flipped:.1%}; in {use.images_flipped:.1%} of the images for all dogs"
    )
    dataset = open_dataset(f"drawn-dogs:{options.data},badge=class", "val")
    if options.away is not None:
        dataset = away_from_middle(dataset, options.away)
        print(
            f"  {len(dataset)} images of one dog whose badge is {options.away:g} pixels from the middle or farther"
        )
    found = ds.faithfulness(
        detector,
        dataset,
        count=options.count,
        threshold=options.threshold,
        steps=options.steps,
        methods=options.method,
        sanity=0,
        region="badge",
        masks=options.masks,
        out=options.out,
    )
    if options.out is not None:
        (options.out / "use.json").write_text(json.dumps(asdict(use), indent=1) + "\n", encoding="utf-8")
    if not found.pointing:
        raise SystemExit("no detection matches a dog of its class: nothing to measure")
    print(
        f"{found.pointing[0].detections} detections; a badge covers {found.pointing[0].area:.2%} of an image"
    )
    print(table(found.pointing))
    finders = [s.method for s in found.pointing if s.hits > FOUND and s.method != KNOWN]
    print(f"point at the badge of more than {FOUND:.0%} of the dogs: {', '.join(finders) or 'no method'}")
    return 0 if use.flipped > WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
