"""Which objects detections find: one-to-one, of the same class, best detection first."""

from __future__ import annotations

import torch

from detrscope.evaluation.object_matching import LabelledBoxes, match_objects


def boxes(*rows: tuple[float, float, float, float, int]) -> LabelledBoxes:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return LabelledBoxes(table[:, :4], table[:, 4].long())


def test_each_object_takes_one_detection() -> None:
    objects = boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 0))
    detections = boxes((0, 0, 10, 9, 0), (0, 0, 10, 10, 0), (20, 0, 30, 10, 0))
    assert match_objects(objects, detections).tolist() == [0, 2]


def test_best_detection_takes_the_object_it_overlaps_most() -> None:
    objects = boxes((0, 0, 10, 10, 0), (2, 0, 12, 10, 0))
    assert match_objects(objects, boxes((2, 0, 12, 10, 0), (1, 0, 11, 10, 0))).tolist() == [1, 0]


def test_other_classes_and_small_overlaps_do_not_match() -> None:
    objects = boxes((0, 0, 10, 10, 0))
    assert match_objects(objects, boxes((0, 0, 10, 10, 1), (0, 0, 10, 4.9, 0))).tolist() == [-1]
    assert match_objects(objects, boxes((0, 0, 10, 5, 0))).tolist() == [0]  # IoU of .5 is enough, as in COCO


def test_nothing_matches_nothing() -> None:
    assert match_objects(boxes(), boxes((0, 0, 1, 1, 0))).tolist() == []
    assert match_objects(boxes((0, 0, 1, 1, 0)), boxes()).tolist() == [-1]
