"""Drawn scenes: the properties of every one."""

from __future__ import annotations

import numpy as np
import pytest

from detrscope.core.errors import UserError
from detrscope.synthetic import parts as part
from detrscope.synthetic.scene import MIN_VISIBLE, Scene, draw_scene


def equal(first: Scene, second: Scene) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(3, index, 96) for index in range(150)]


def test_scenes_are_deterministic(scenes: list[Scene]) -> None:
    draw_scene(8, 1, 40)
    assert equal(draw_scene(3, 17, 96), scenes[17])
    for other in (draw_scene(4, 17, 96), draw_scene(3, 18, 96)):
        assert not np.array_equal(other.image, scenes[17].image)


def test_shapes_and_types(scenes: list[Scene]) -> None:
    for scene in scenes:
        dogs = len(scene.boxes_xyxy)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.parts.shape == scene.instance.shape == (96, 96)
        assert scene.parts.dtype == scene.instance.dtype == np.uint8
        assert scene.boxes_xyxy.shape == (dogs, 4) and scene.boxes_xyxy.dtype == np.float32
        assert scene.visible.shape == (dogs,)


def test_boxes_are_the_extents_of_what_is_visible(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert set(np.unique(scene.instance)) - {0} == set(range(1, len(scene.boxes_xyxy) + 1))
        for dog, box in enumerate(scene.boxes_xyxy, start=1):
            rows, columns = np.nonzero(scene.instance == dog)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (scene.visible >= MIN_VISIBLE).all() and (scene.visible <= 1).all()


def test_parts_are_labelled_exactly_on_dogs(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert np.array_equal(scene.parts > 0, scene.instance > 0)
    every = np.concatenate([s.parts.ravel() for s in scenes])
    assert set(np.unique(every)) == {0, *part.NAMES}
    whole = [(s, d) for s in scenes for d in range(len(s.visible)) if s.visible[d] > 0.97]
    assert len(whole) > 30
    for scene, dog in whole:  # a dog that nothing hides has all of these
        assert {part.BODY, part.HEAD, part.EARS, part.MUZZLE} <= set(scene.parts[scene.instance == dog + 1])


def test_heads_are_above_paws(scenes: list[Scene]) -> None:
    """In a room or a meadow heads are above paws."""
    above = []
    for scene in scenes:
        for dog in range(1, len(scene.boxes_xyxy) + 1):
            own = np.where(scene.instance == dog, scene.parts, 0)
            heads, paws = np.nonzero(own == part.HEAD)[0], np.nonzero(own == part.PAWS)[0]
            if len(heads) and len(paws):
                above.append(heads.mean() < paws.mean())
    assert len(above) > 60 and np.mean(above) > 0.97


def test_scene_statistics(scenes: list[Scene]) -> None:
    empty = np.mean([len(s.boxes_xyxy) == 0 for s in scenes])
    assert 0.15 < empty < 0.35  # 0.25 +- three standard deviations
    assert max(len(s.boxes_xyxy) for s in scenes) == 3
    sides = np.concatenate([(s.boxes_xyxy[:, 2:] - s.boxes_xyxy[:, :2]).max(1) for s in scenes]) / 96
    assert sides.min() > 0.08 and sides.max() < 0.64 and sides.std() > 0.08
    visible = np.concatenate([s.visible for s in scenes])
    assert np.median(visible) > 0.85 and (visible < 0.8).mean() > 0.1


def test_masks_follow_the_outlines_in_the_image() -> None:
    """The mask is of what was drawn: inside a dog the colours change at its edge."""
    scene = next(s for s in (draw_scene(0, i) for i in range(20)) if len(s.visible) and s.visible[0] > 0.99)
    inside = scene.instance == 1
    edge = inside & ~(
        np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)
    )
    assert scene.image[edge].mean() < scene.image[inside & ~edge].mean() - 20  # an outline, which is dark


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 160), (0, -1, 160), (0, 0, 31), (0, 0, 4096)])
def test_numbers_out_of_range(seed: int, index: int, size: int) -> None:
    with pytest.raises(UserError, match="drawn dogs: seed="):
        draw_scene(seed, index, size)
