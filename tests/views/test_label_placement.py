"""Labels stay in the frame and off each other."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detrscope.views.label_placement import MAX_OVERLAP, place_labels

FRAME = (0, 0, 200, 150)


def test_the_first_choice_is_above_the_box() -> None:
    assert place_labels(np.array([[20.0, 40, 60, 80]]), [(30, 12)], FRAME) == [(20, 28)]


def test_at_the_top_edge_the_label_goes_below_the_box() -> None:
    ((_, y),) = place_labels(np.array([[0.0, 0, 60, 80]]), [(30, 12)], FRAME)[:1]
    assert y in (0, 80)  # inside at the top, or below


def test_equal_boxes_get_labels_side_by_side() -> None:
    places = place_labels(np.array([[20.0, 40, 60, 80]] * 3), [(30, 12)] * 3, FRAME)
    assert len({p for p in places if p is not None}) == 3


def test_of_a_crowd_the_best_keep_their_labels() -> None:
    places = place_labels(np.array([[20.0, 40, 24, 44]] * 60), [(60, 20)] * 60, FRAME)
    assert places[0] is not None
    assert sum(p is None for p in places) > 30


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 25))
def test_labels_stay_in_the_frame_and_readable(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 140, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 60, (count, 2))], axis=1)
    sizes = [(int(w), 12) for w in rng.integers(10, 80, count)]
    places = place_labels(boxes, sizes, FRAME)
    plates: list[tuple[float, float, int, int]] = []
    for place, (w, h) in zip(places, sizes, strict=True):
        if place is None:
            continue
        x, y = place
        assert x >= 0 and y >= 0 and x + w <= 200 and y + h <= 150
        covered = sum(
            max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b))
            for a, b, c, d in plates
        )
        assert covered <= MAX_OVERLAP * w * h + 1e-6
        plates.append((x, y, w, h))
