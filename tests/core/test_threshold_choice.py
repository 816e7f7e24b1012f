"""Thresholds as numbers and as goals that a card answers; the table in a card."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.operating_points import ThresholdCurve, ThresholdTable
from detrscope.core.threshold_choice import check_threshold_form, find_thresholds
from tests.support.square_detector import card

CLASSES = ClassTable((1, 7, 900), ("ruby", "leaf", "sky"))
ALL = ThresholdCurve(10, (0.8, 0.5, 0.2), (4, 8, 9), (0, 2, 9))  # precision 1, .8, .5; recall .4, .8, .9
RUBY = ThresholdCurve(5, (0.7, 0.1), (2, 5), (0, 1))
LEAF = ThresholdCurve(5, (0.4,), (1,), (1,))
TABLE = ThresholdTable("dogs val", 3, ALL, {1: RUBY, 7: LEAF})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (0.3, 0.3), (0, 0.0), ("0.7", 0.7), ("f1", 0.5), ("precision=0.8", 0.5), ("precision=0.81", 0.8),
        ("recall=0.85", 0.2), ("recall=0.4", 0.8), (" precision = 0.9 ", 0.8), ((0.1, 0.2, 0.3), (0.1, 0.2, 0.3)),
        ("f1,per-class", (0.1, 0.4, 0.5)), ("precision=0.9, per-class", (0.7, 0.8, 0.8)),
    ],
    ids=str,
)  # fmt: skip
def test_thresholds_reach_their_goal(choice: Any, expected: Any) -> None:
    assert find_thresholds(choice, TABLE, CLASSES).values == expected


def test_notes_say_what_is_used() -> None:
    assert find_thresholds(0.5, TABLE, CLASSES).note == ""
    note = find_thresholds("precision=0.8", TABLE, CLASSES).note
    assert note == (
        "precision=0.8: threshold 0.5, precision 0.800, recall 0.800, F1 0.800 on dogs val (3 images)"
    )
    note = find_thresholds("precision=0.9,per-class", TABLE, CLASSES).note
    assert "threshold ruby 0.7; 2 classes have no boxes there or cannot reach it" in note and "0.8" in note


@pytest.mark.parametrize(
    ("choice", "table", "message"),
    [
        ("precision=0.9", None, "no table of thresholds; evaluate it on a validation set with store_thresholds=True"),
        ("recall=0.95", TABLE, "cannot be reached on dogs val .*: the highest recall of any threshold is 0.900"),
        ("f1", replace(TABLE, all_classes=ThresholdCurve(3, (), (), ())), "no detection was right"),
        ("high", TABLE, "'high': expected a score such as 0.7, f1, precision=0.9 or recall=0.8"),
        ("precision", TABLE, "expected a score such as"),
        ("precision=high", TABLE, "expected a score such as"),
        ("precision=nan", TABLE, "expected a score such as"),
        ("precision=90", TABLE, "expected a precision above 0 and at most 1"),
        ("recall=0", TABLE, "expected a recall above 0"),
        ("f1=0.9", TABLE, "expected a score such as"),
        ("0.5,per-class", TABLE, "expected a score such as"),
        ("f1,per-image", TABLE, "expected a score such as"),
        ("", TABLE, "expected a score such as"),
        (1.2, TABLE, "threshold 1.2: expected a score between 0 and 1"),
        ("-0.1", TABLE, "expected a score between 0 and 1"),
        (float("nan"), TABLE, "expected a score between 0 and 1"),
        ((0.1, 0.2), TABLE, "expected one for each of 3 classes, found 2"),
        ((0.1, 0.2, 2.0), TABLE, "expected a score between 0 and 1"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_thresholds_are_named(choice: Any, table: ThresholdTable | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        find_thresholds(choice, table, CLASSES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("choice", ["high", 2, "precision=2"])
def test_form_is_checked_without_a_table(choice: float | str) -> None:
    check_threshold_form("precision=0.9,per-class")
    check_threshold_form(0.4)
    with pytest.raises(UserError, match="expected"):
        check_threshold_form(choice)


def test_cards_round_trip_with_a_table() -> None:
    with_table = replace(card(), thresholds=TABLE)
    tree = json.loads(json.dumps(with_table.to_json()))
    assert ModelCard.from_json(tree) == with_table
    assert "thresholds" not in card().to_json(), "cards without a table are what they were"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"oddity": 1}, "unknown key 'thresholds.oddity'"),
        ({"images": -1}, "thresholds.images"),
        ({"source": 3}, "thresholds.source"),
        ({"all_classes.thresholds": [0.8, 0.5]}, "all_classes: expected columns of one length, found 2, 3, 3"),
        ({"all_classes.thresholds": [0.8, 0.5, 0.5]}, "expected falling thresholds"),
        ({"all_classes.thresholds": [1.8, 0.5, 0.2]}, "thresholds.all_classes.thresholds.0"),
        ({"all_classes.thresholds": [0.9, 0.5, float("nan")]}, "thresholds.all_classes.thresholds.2"),
        ({"all_classes.true_positives": [4, 8, 8]}, "rising true_positives"),
        ({"all_classes.true_positives": [4, 8, 11]}, "rising true_positives of at most 10"),
        ({"all_classes.true_positives": [0, 8, 9]}, "rising true_positives"),
        ({"all_classes.false_positives": [0, -1, 3]}, "false_positives.1"),
        ({"all_classes.boxes": "10"}, "thresholds.all_classes.boxes"),
        ({"per_class": [{"id": 5, "boxes": 0, "thresholds": [], "true_positives": [], "false_positives": []}]},
         "class id 5 is not one of the classes"),
        ({"per_class": 2 * [{"id": 1, "boxes": 0, "thresholds": [], "true_positives": [], "false_positives": []}]},
         "expected each class once"),
        ({"per_class": {}}, "thresholds.per_class"),
    ],
    ids=str,
)  # fmt: skip
def test_malformed_tables_are_refused(change: dict[str, Any], message: str) -> None:
    tree = json.loads(json.dumps(replace(card(), thresholds=TABLE).to_json()))
    for key, value in change.items():
        node = tree["thresholds"]
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = value
    with pytest.raises(UserError, match=message):
        ModelCard.from_json(tree, "a card")
