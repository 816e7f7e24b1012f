"""Planted errors of every kind, and the stage that is read back."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detrscope.core.verdicts import MEANINGS, Stage, Verdict
from detrscope.explain.image_predictions import Crowds, ImagePredictions, Objects
from detrscope.explain.stages import image_verdicts

NAMES = ("cat", "dog", "bird")
LAYERS, QUERIES = 4, 8
CELLS = [
    (x, y) for y in range(4) for x in range(4)
]  # objects lie in cells of 100 pixels, apart from each other
FAR = torch.tensor([900.0, 900.0, 910.0, 910.0])  # queries that are on nothing wait here


class Scene:
    """An image in which everything is right, and ways to spoil it."""

    def __init__(self, seed: int, objects: int = 3, queries: int = QUERIES, softmax: bool = True) -> None:
        self.random = random.Random(seed)
        cells = self.random.sample(CELLS, objects)
        self.boxes = torch.tensor(
            [
                [
                    100.0 * x + self.random.uniform(5, 20),
                    100.0 * y + self.random.uniform(5, 20),
                    100.0 * x + self.random.uniform(70, 95),
                    100.0 * y + self.random.uniform(70, 95),
                ]
                for x, y in cells
            ]
        )
        self.labels = torch.tensor([self.random.randrange(3) for _ in range(objects)])
        self.query_of = self.random.sample(range(queries), min(objects, queries))
        self.scores = torch.rand(LAYERS, queries, 3, generator=torch.Generator().manual_seed(seed)) * 0.2
        self.predicted = FAR.repeat(LAYERS, queries, 1)
        self.starts: Tensor | None = None
        for index, query in enumerate(self.query_of):
            self.predicted[:, query] = self.boxes[index] + self.random.uniform(-2, 2)
            self.scores[:, query, self.labels[index]] = self.random.uniform(0.7, 0.99)
        self.softmax = softmax

    def unused(self) -> int:
        return next(query for query in range(self.scores.shape[1]) if query not in self.query_of)

    def verdicts(self, threshold: float = 0.5, crowds: Crowds | None = None) -> list[Verdict]:
        predictions = ImagePredictions(self.scores, self.predicted, (16.0, 16.0), self.starts, self.softmax)
        objects = Objects(self.boxes, self.labels, range(100, 100 + len(self.labels)))
        return image_verdicts(7, "seven.png", predictions, objects, NAMES, threshold, crowds)


def plant(stage: Stage, seed: int, softmax: bool) -> tuple[Scene, set[tuple[str, Stage]]]:
    """Return a scene with one error, and the verdicts that it should get."""
    crowded = stage == "more objects than queries"
    scene = Scene(seed, 4 if crowded else 3, 3 if crowded else QUERIES, softmax)
    query, label, box = scene.query_of[0], int(scene.labels[0]), scene.boxes[0]
    other = (label + 1 + scene.random.randrange(2)) % 3
    width = float(box[2] - box[0])
    if stage == "smaller than a token":
        scene.boxes[0, 2:] = scene.boxes[0, :2] + 8
        scene.predicted[:, query] = FAR
        scene.scores[:, query] *= 0.2
    elif stage in ("never reached", "not among the proposals"):
        scene.predicted[:, query] = FAR
        scene.scores[:, query] *= 0.2
        if stage == "not among the proposals":
            scene.starts = FAR.repeat(QUERIES, 1)
        elif scene.random.random() < 0.5:  # it was proposed, and no query came to it
            scene.starts = torch.cat([box[None], FAR.repeat(QUERIES - 1, 1)])
    elif stage == "lost in a layer":
        if scene.random.random() < 0.5:  # the box leaves
            scene.predicted[2:, query] = FAR
            scene.scores[2:, query] *= 0.2
        else:  # the score falls
            scene.scores[2:, query] *= 0.3
    elif stage == "badly placed":
        scene.predicted[:, query] = box + torch.tensor([0.55 * width, 0, 0.55 * width, 0])
    elif stage == "wrong class":
        scene.scores[:, query] = 0.02
        scene.scores[:, query, other] = 0.75
    elif stage == "low score":
        scene.scores[:, query] *= 0.4
    elif stage == "one query for two":
        scene.boxes = torch.cat([scene.boxes, (box + torch.tensor([0.0, 0, 0.15 * width, 0]))[None]])
        scene.labels = torch.cat([scene.labels, scene.labels[:1]])
        scene.predicted[:, query] = box
    elif stage == "duplicate":
        extra = scene.unused()
        scene.predicted[:, extra] = box + 3
        scene.scores[:, extra, label] = 0.6
    elif stage == "on nothing":
        extra = scene.unused()
        scene.predicted[:, extra] = torch.tensor([700.0, 700, 760, 760])
        scene.scores[:, extra, other] = 0.9
    kinds: set[tuple[str, Stage]] = {("missed", stage)}
    if stage in ("badly placed", "wrong class"):
        kinds = {("missed", stage), ("false", stage)}
    elif stage in ("duplicate", "on nothing"):
        kinds = {("false", stage)}
    return scene, kinds


@pytest.mark.parametrize("stage", MEANINGS)
def test_planted_errors_are_named_rightly(stage: Stage) -> None:
    """At least 95%: all of a hundred of each kind, with softmax and with sigmoid scores."""
    wrong: Counter[str] = Counter()
    for seed in range(100):
        scene, expected = plant(stage, seed, softmax=seed % 2 == 0)
        found = {(verdict.kind, verdict.stage) for verdict in scene.verdicts()}
        if found != expected:
            wrong[f"{sorted(found)}"] += 1
    assert not wrong, wrong


def test_nothing_is_wrong_with_a_right_scene() -> None:
    for seed in range(20):
        assert Scene(seed, softmax=seed % 2 == 0).verdicts() == []


def test_the_evidence_says_what_happened() -> None:
    scene, _ = plant("lost in a layer", 3, softmax=True)
    (verdict,) = scene.verdicts()
    assert verdict.layer == 2 and verdict.annotation == 100 and verdict.image_id == 7
    assert len(verdict.evidence.iou) == len(verdict.evidence.score) == len(verdict.evidence.margin) == LAYERS
    assert "layer 1" in verdict.text
    scene, _ = plant("wrong class", 0, softmax=True)
    missed, false = scene.verdicts()
    assert missed.other == false.name and false.other == missed.name == NAMES[int(scene.labels[0])]
    assert missed.query == false.query == scene.query_of[0] and max(missed.evidence.margin) < 0
    scene, _ = plant("duplicate", 0, softmax=True)
    (verdict,) = scene.verdicts()
    assert verdict.repeats == scene.query_of[0] and verdict.query != verdict.repeats


def test_sure_detections_where_nothing_is_annotated_are_suspected() -> None:
    scene, _ = plant("on nothing", 0, softmax=True)
    (verdict,) = scene.verdicts()
    assert verdict.suspected and verdict.score == pytest.approx(0.9)
    scene.scores[scene.scores == 0.9] = 0.6
    assert not scene.verdicts()[0].suspected


def test_detections_in_crowds_count_neither_for_nor_against() -> None:
    scene, _ = plant("on nothing", 0, softmax=True)
    label = NAMES.index(scene.verdicts()[0].name)
    around = torch.tensor([[650.0, 650, 800, 800]])
    assert scene.verdicts(crowds=Crowds(around, torch.tensor([label]))) == []
    assert len(scene.verdicts(crowds=Crowds(around, torch.tensor([(label + 1) % 3])))) == 1
    assert len(scene.verdicts(crowds=Crowds(around - 650, torch.tensor([label])))) == 1


def test_detections_that_are_right_are_no_evidence_against_another_object() -> None:
    """A found neighbour that overlaps a missed object is neither its wrong class nor its bad place."""
    for overlap, share in ((0.6, 0.25), (0.15, 0.74)):
        scene = Scene(1)
        box, query = scene.boxes[0], scene.query_of[0]
        width = float(box[2] - box[0])
        scene.boxes = torch.cat(
            [scene.boxes, (box + torch.tensor([share * width, 0, share * width, 0]))[None]]
        )
        other = scene.labels[:1] if overlap < 0.5 else (scene.labels[:1] + 1) % 3
        scene.labels = torch.cat([scene.labels, other])
        scene.predicted[:, query] = box
        (verdict,) = scene.verdicts()
        assert verdict.annotation == 103 and not verdict.suspected
        assert verdict.stage == ("never reached" if overlap < 0.5 else "low score")


def test_softmax_queries_have_one_class() -> None:
    """A query whose second class is above a low threshold detects its best class only."""
    scene = Scene(2)
    query, label = scene.query_of[0], int(scene.labels[0])
    scene.scores[:, query] = 0.1
    scene.scores[:, query, label], scene.scores[:, query, (label + 1) % 3] = 0.35, 0.5
    assert {verdict.stage for verdict in scene.verdicts(threshold=0.3)} == {"wrong class"}


def test_classes_that_the_dataset_lacks_are_no_errors() -> None:
    scene, _ = plant("on nothing", 0, softmax=True)
    label = NAMES.index(scene.verdicts()[0].name)
    predictions = ImagePredictions(scene.scores, scene.predicted, (16.0, 16.0), None, True)
    objects = Objects(scene.boxes, scene.labels, range(len(scene.labels)))
    known = [index for index in range(3) if index != label or bool((scene.labels == label).any())]
    verdicts = image_verdicts(7, "x", predictions, objects, NAMES, 0.5, None, known)
    assert len(verdicts) == int(label in known)


def test_images_without_objects_or_detections() -> None:
    scene = Scene(0)
    scene.boxes, scene.labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert {verdict.stage for verdict in scene.verdicts()} == {"on nothing"}
    empty = Scene(0)
    empty.scores = torch.zeros_like(empty.scores)
    assert [verdict.stage for verdict in empty.verdicts()] == ["low score"] * 3
    assert replace(empty.verdicts()[0], image="x").to_json()["image"] == "x"
