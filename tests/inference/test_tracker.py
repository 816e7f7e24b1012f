"""Tracks: ids that stay, weak detections, lost objects."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest
import torch

from detrscope.core.errors import UserError
from detrscope.core.types import Detections
from detrscope.inference.media.tracker import Tracker

RATE = Fraction(25)


def found(*rows: tuple[float, float, float, str], first_query: int = 0) -> Detections:
    """Boxes of 40 pixels at x, y with a score and a class."""
    boxes = torch.tensor([(x, y, x + 40, y + 40) for x, y, _, _ in rows]).float().reshape(-1, 4)
    scores = torch.tensor([score for _, _, score, _ in rows]).float()
    names = tuple(name for *_, name in rows)
    labels = torch.ones(len(rows), dtype=torch.int64)
    return Detections(
        boxes, scores, labels, names, torch.arange(first_query, first_query + len(rows)), 240, 320
    )


NOTHING = found()


def test_objects_keep_their_ids_in_any_order() -> None:
    tracker = Tracker(RATE)
    ids: list[dict[str, int]] = []
    for i in range(8):
        rows = [(10.0 + 3 * i, 10.0, 0.9, "dog"), (200.0 - 3 * i, 100.0, 0.8, "cat")]
        result = tracker.update(found(*(rows if i % 2 else rows[::-1])), NOTHING, i, i / RATE)
        assert result.track_ids is not None and len(result) == 2
        assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
        ids.append(dict(zip(result.names, result.track_ids.tolist(), strict=True)))
    assert ids[0] == {"dog": -1, "cat": -1}
    assert all(one == ids[1] for one in ids[1:]) and ids[1]["dog"] != ids[1]["cat"]
    tracks = {track.name: track for track in tracker.close()}
    assert (tracks["dog"].first, tracks["dog"].last, tracks["dog"].frames) == (1, 7, 7)


def test_weak_detection_continues_a_track_but_begins_none() -> None:
    tracker = Tracker(RATE)
    for i in range(4):
        tracker.update(found((10, 10, 0.9, "dog")), NOTHING, i, i / RATE)
    weak = found((12, 10, 0.2, "dog"), (200, 100, 0.3, "cat"), first_query=5)
    result = tracker.update(NOTHING, weak, 4, 4 / RATE)
    assert result.names == ("dog",) and result.track_ids is not None and int(result.track_ids[0]) >= 0


def test_weak_duplicate_of_a_detection_is_left_out() -> None:
    tracker = Tracker(RATE)
    for i in range(4):
        both = found((10, 10, 0.9, "dog"), (40, 10, 0.9, "dog"))
        tracker.update(both, NOTHING, i, i / RATE)
    duplicate = found((12, 10, 0.2, "dog"), first_query=5)
    result = tracker.update(found((10, 10, 0.9, "dog")), duplicate, 4, 4 / RATE)
    assert len(result) == 1


def test_lost_track_ends_once() -> None:
    tracker = Tracker(RATE)
    for i in range(4):
        tracker.update(found((10, 10, 0.9, "dog")), NOTHING, i, i / RATE)
    assert not list(tracker.ended())
    ended = []
    for i in range(4, 60):
        tracker.update(NOTHING, NOTHING, i, i / RATE)
        ended += list(tracker.ended())
    assert [(track.name, track.last) for track in ended] == [("dog", 3)]
    assert not list(tracker.close())


def test_clock_that_stands_still_loses_no_detection() -> None:
    tracker = Tracker(RATE)
    results = [tracker.update(found((10, 10, 0.9, "dog")), NOTHING, i, Fraction(1)) for i in range(4)]
    assert [len(result) for result in results] == [1, 1, 1, 1]


def test_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match=r"pip install 'detrscope\[track\]'"):
        Tracker(RATE)
