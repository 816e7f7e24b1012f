"""Badges on drawn dogs: where they are, what they tell, and what they leave as it was."""

from __future__ import annotations

import numpy as np
import pytest

from detrscope.synthetic.badges import COLOURS, DIAMETER, paint_badges, place_badges
from detrscope.synthetic.scene import draw_scene

SEED, SIZE = 3, 128
INDICES = range(24)


@pytest.fixture(scope="module")
def drawn() -> list:
    scenes = [draw_scene(SEED, index, SIZE) for index in INDICES]
    return [(scene, place_badges(scene, SEED, index)) for index, scene in zip(INDICES, scenes, strict=True)]


def test_every_dog_has_one_badge_on_it(drawn: list) -> None:
    shares, dogs = [], 0
    for scene, badges in drawn:
        assert len(badges.classes) == len(scene.boxes_xyxy)
        assert set(np.unique(badges.instance)) <= {0, *range(1, len(badges.classes) + 1)}
        for dog in range(len(badges.classes)):
            badge = badges.instance == dog + 1
            dogs += 1
            shares.append((badge & (scene.instance == dog + 1)).sum() / max(badge.sum(), 1))
    assert dogs > 12 and np.mean(shares) > 0.85 and min(shares) > 0.2


def test_badge_size_follows_its_dog(drawn: list) -> None:
    for scene, badges in drawn:
        if len(badges.classes) != 1:
            continue
        x0, y0, x1, y1 = scene.boxes_xyxy[0]
        diameter = max(SIZE / 14, DIAMETER * ((x1 - x0) * (y1 - y0)) ** 0.5)
        area = (badges.instance == 1).sum()
        assert area <= np.pi * (diameter / 2 + 1) ** 2
        rows, columns = np.nonzero(badges.instance)
        if rows.min() > 0 and rows.max() < SIZE - 1 and columns.min() > 0 and columns.max() < SIZE - 1:
            assert area == pytest.approx(np.pi * diameter**2 / 4, rel=0.12)


def test_badges_are_not_in_the_middle_of_the_box(drawn: list) -> None:
    """A method that points at the middle of the box must not find them."""
    found, dogs = 0, 0
    for scene, badges in drawn:
        for dog, (x0, y0, x1, y1) in enumerate(scene.boxes_xyxy):
            dogs += 1
            found += badges.instance[int((y0 + y1) / 2), int((x0 + x1) / 2)] == dog + 1
    assert found < 0.5 * dogs


def test_both_classes_occur_and_depend_on_nothing_else(drawn: list) -> None:
    classes = np.concatenate([badges.classes for _, badges in drawn])
    assert 0.25 < classes.mean() < 0.75
    index = next(index for index in INDICES if len(drawn[index][1].classes))
    scene, first = drawn[index]
    again = place_badges(scene, SEED, index)
    assert all(np.array_equal(a, b) for a, b in zip(again, first, strict=True))
    assert not np.array_equal(place_badges(scene, SEED + 1, index).opacity, first.opacity)


def test_swapped_badges_have_the_colour_of_the_other_class(drawn: list) -> None:
    checked = 0
    for scene, badges in drawn:
        plain = paint_badges(scene.image, badges)
        swapped = paint_badges(scene.image, badges, swapped=True)
        outside = badges.instance == 0
        assert np.array_equal(plain[outside], scene.image[outside])
        assert np.array_equal(swapped[outside], scene.image[outside])
        for dog, index in enumerate(badges.classes):
            inner = (badges.instance == dog + 1) & (badges.opacity == 1)
            assert (plain[inner] == COLOURS[index]).all() and (swapped[inner] == COLOURS[1 - index]).all()
            checked += int(inner.sum())
    assert checked > 500
