"""Tiles of an image, and what happens to the predictions in them."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.postprocess import Scored
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.tile_merging import merge_tiles
from detrscope.core.tiling import MAX_TILES, Rect, Tiling, parse_tile_size

sides = st.integers(16, 900)
overlaps = st.floats(0, 0.9)


@given(st.integers(1, 2000), st.integers(1, 2000), sides, sides, overlaps)
def test_tiles_cover_the_image_with_equal_sizes_and_enough_overlap(
    height: int, width: int, tall: int, wide: int, overlap: float
) -> None:
    tiling = Tiling(((tall, wide),), overlap=overlap, whole=False)
    try:
        tiles = tiling.parts(height, width)
    except UserError as error:
        assert f"more than {MAX_TILES:,}" in str(error)
        return
    assert len(set(tiles)) == len(tiles)
    assert {(y1 - y0, x1 - x0) for x0, y0, x1, y1 in tiles} == {(min(tall, height), min(wide, width))}
    for length, side, low in ((width, wide, 0), (height, tall, 1)):
        spans = sorted({(tile[low], tile[low + 2]) for tile in tiles})
        assert spans[0][0] == 0 and spans[-1][1] == length
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= min(overlap * side, side - 1) - 1e-6


def test_the_whole_image_comes_last_and_once() -> None:
    tiling = Tiling(((60, 80),))
    assert tiling.parts(100, 200)[-1] == (0, 0, 200, 100)
    assert replace(tiling, whole=False).parts(100, 200) == tiling.parts(100, 200)[:-1]
    assert tiling.parts(60, 80) == [(0, 0, 80, 60)]
    assert tiling.parts(50, 200)[0] == (0, 0, 80, 50)
    assert Tiling(((60, 60), (200, 200))).parts(100, 100).count((0, 0, 100, 100)) == 1


def test_the_size_of_the_model_leaves_pixels_as_they_are() -> None:
    for preprocessing in (Preprocessing(800, 1333), Preprocessing(fit="within", box=(512, 640))):
        ((height, width),) = Tiling().of_model(preprocessing).sizes
        assert preprocessing.size_for(height, width) == (height, width)
    own = Tiling(((90, 80),))
    assert own.of_model(Preprocessing(fit="none")) is own


@pytest.mark.parametrize(
    ("text", "size"), [("800", (800, 800)), ("800x600", (600, 800)), ("64x100", (100, 64))]
)
def test_sizes_are_read_as_width_by_height(text: str, size: tuple[int, int]) -> None:
    assert parse_tile_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "8e2", "800x", "x600", "800x600x3", "-800", "800 x 600", "big", "1234567"]
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected a size in pixels, 800 or 800x600 \(width x height\)"):
        parse_tile_size(text)


def test_tilings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="tile 5x900: expected sides of 16 to"):
        Tiling(((900, 5),))
    with pytest.raises(UserError, match=r"tile overlap 0\.95: expected a share of 0 to 0\.9"):
        Tiling(overlap=0.95)
    with pytest.raises(UserError, match="tile batch size 0: expected 1 or more"):
        Tiling(batch_size=0)
    with pytest.raises(UserError, match="does not resize images"):
        Tiling().of_model(Preprocessing(fit="none"))
    with pytest.raises(UserError, match=r"has 153,664 of them, more than 20,000; choose larger tiles"):
        Tiling(((16, 16),), overlap=0.5).parts(3140, 3140)
    with pytest.raises(UserError, match="sizes"):
        Tiling("800")  # type: ignore[arg-type]


def seen_in(part: Rect, boxes: Tensor, classes: Tensor, scores: Tensor) -> Scored:
    """What a perfect detector finds in a part: of every object that shows, the box of what shows."""
    low, high = torch.tensor(part[:2] * 2), torch.tensor(part[2:] * 2)
    shown = boxes.maximum(low).minimum(high)
    visible = (shown[:, 2:] - shown[:, :2] >= 1).all(1).nonzero()[:, 0]
    visible = visible[scores[visible].argsort(descending=True)]
    return Scored(shown[visible], scores[visible], classes[visible], visible)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, int, Tensor, Tensor, Tiling]:
    """Image size, boxes without overlap, their classes, and a tiling."""
    height, width = draw(st.integers(40, 400)), draw(st.integers(40, 400))
    cell = draw(st.integers(20, 200))
    rng = random.Random(draw(st.integers(0, 10**6)))
    boxes, classes = [], []
    for y in range(0, height - cell + 1, cell):
        for x in range(0, width - cell + 1, cell):
            if rng.random() < 0.6:
                w, h = rng.randint(8, cell - 4), rng.randint(8, cell - 4)
                left, top = x + 2 + rng.randint(0, cell - 4 - w), y + 2 + rng.randint(0, cell - 4 - h)
                boxes.append((left, top, left + w, top + h))
                classes.append(rng.randint(0, 1))
    size = (draw(st.integers(32, 160)), draw(st.integers(32, 160)))
    tiling = Tiling((size,), overlap=draw(st.floats(0.1, 0.6)), whole=draw(st.booleans()))
    return height, width, torch.tensor(boxes).view(-1, 4), torch.tensor(classes), tiling


@settings(deadline=None, max_examples=150)
@given(worlds(), st.integers(0, 10**6))
def test_every_object_is_found_once_with_its_whole_box(
    world: tuple[int, int, Tensor, Tensor, Tiling], seed: int
) -> None:
    height, width, boxes, classes, tiling = world
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in tiling.parts(height, width):
        scores = 0.6 + 0.4 * torch.rand(len(boxes), generator=generator)
        parts.append((part, seen_in(part, boxes.float(), classes, scores)))
    merged = merge_tiles(parts)
    order = merged.query_ids.argsort()  # the detector numbers its queries after the objects
    assert merged.query_ids[order].tolist() == list(range(len(boxes)))
    assert torch.equal(merged.boxes_xyxy[order], boxes.float())
    assert torch.equal(merged.class_indices[order], classes)
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)
    assert merged.tiles_xyxy is not None
    assert {*map(tuple, merged.tiles_xyxy.tolist())} <= {part for part, _ in parts}


def scored(boxes: list[list[float]], scores: list[float], classes: list[int] | None = None) -> Scored:
    count = len(scores)
    labels = torch.tensor(classes or [0] * count)
    return Scored(torch.tensor(boxes).view(-1, 4).float(), torch.tensor(scores), labels, torch.arange(count))


LEFT, RIGHT, WHOLE = (0, 0, 100, 100), (60, 0, 160, 100), (0, 0, 160, 100)


def test_boxes_of_one_tile_are_never_merged() -> None:
    twice = scored([[62, 10, 90, 40], [62, 11, 91, 40]], [0.9, 0.8])
    assert len(merge_tiles([(LEFT, twice), (RIGHT, scored([], []))]).scores) == 2
    assert len(merge_tiles([(LEFT, twice), (RIGHT, scored([[62, 10, 90, 41]], [0.7]))]).scores) == 2


def test_classes_are_not_merged() -> None:
    box = [70.0, 20, 90, 50]
    merged = merge_tiles([(LEFT, scored([box], [0.9], [0])), (RIGHT, scored([box], [0.8], [1]))])
    assert merged.class_indices.tolist() == [0, 1]


def test_a_small_object_in_front_of_a_large_one_stays() -> None:
    large, small = [62.0, 5, 97, 95], [75.0, 40, 90, 60]
    merged = merge_tiles(
        [(LEFT, scored([large, small], [0.9, 0.8])), (RIGHT, scored([large, small], [0.85, 0.9]))]
    )
    assert sorted(merged.boxes_xyxy.tolist()) == [large, small]


def test_the_box_comes_from_the_tile_that_sees_the_whole_object() -> None:
    merged = merge_tiles(
        [(LEFT, scored([[70, 20, 100, 50]], [0.99])), (RIGHT, scored([[70, 20, 130, 50]], [0.8]))]
    )
    assert merged.boxes_xyxy.tolist() == [[70, 20, 130, 50]]
    assert merged.tiles_xyxy is not None and merged.tiles_xyxy.tolist() == [list(RIGHT)]
    assert merged.scores.tolist() == pytest.approx([0.99])  # the best of any tile


def test_an_object_cut_in_both_tiles_is_joined() -> None:
    merged = merge_tiles(
        [(LEFT, scored([[20, 20, 100, 50]], [0.9])), (RIGHT, scored([[60, 21, 150, 51]], [0.8]))]
    )
    assert merged.boxes_xyxy.tolist() == [[20, 20, 150, 50]]


def test_an_inexact_piece_of_a_larger_box_is_dropped() -> None:
    piece, object_ = scored([[80, 30, 99, 40]], [0.7]), scored([[75, 20, 140, 50]], [0.9])
    assert merge_tiles([(LEFT, piece), (RIGHT, object_)]).boxes_xyxy.tolist() == [[75, 20, 140, 50]]
    surer = merge_tiles(
        [(LEFT, scored([[80, 30, 99, 40]], [0.9])), (RIGHT, scored([[75, 20, 140, 50]], [0.6]))]
    )
    assert surer.boxes_xyxy.tolist() == [[75, 20, 140, 50]] and float(surer.scores) == pytest.approx(0.9)
    # One that no edge cuts is another object.
    inside = scored([[76, 30, 92, 40]], [0.7])
    assert len(merge_tiles([(LEFT, inside), (RIGHT, object_)]).scores) == 2


def test_a_chance_prediction_does_not_shape_a_box() -> None:
    merged = merge_tiles(
        [(LEFT, scored([[70, 20, 100, 50]], [0.9])), (RIGHT, scored([[70, 20, 104, 50]], [0.06]))]
    )
    assert merged.boxes_xyxy.tolist() == [[70, 20, 100, 50]]


def test_large_objects_come_from_the_whole_image_and_small_ones_from_tiles() -> None:
    tiles = [(0, 0, 400, 400), (320, 0, 720, 400), (640, 0, 1040, 400)]
    large, rough, exact = [20.0, 20, 1000, 380], [500.0, 100, 540, 160], [506.0, 104, 545, 163]
    parts = [(tile, scored([], [])) for tile in tiles]
    parts[1] = (tiles[1], scored([exact], [0.7]))
    merged = merge_tiles([*parts, ((0, 0, 1040, 400), scored([large, rough], [0.9, 0.8]))])
    assert merged.boxes_xyxy.tolist() == [large, exact]


def test_one_part_keeps_its_predictions_as_they_are() -> None:
    outside = scored([[-5, 3, 170, 20], [2, 2, 3, 3]], [0.5, 0.01])
    merged = merge_tiles([(WHOLE, outside)])
    assert torch.equal(merged.boxes_xyxy, outside.boxes_xyxy)
    assert merged.tiles_xyxy is not None and merged.tiles_xyxy.tolist() == [list(WHOLE)] * 2


def test_tiles_without_predictions_give_none() -> None:
    assert len(merge_tiles([(LEFT, scored([], [])), (RIGHT, scored([], []))]).scores) == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_merged_boxes_of_chance_predictions_are_boxes(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in Tiling(((60, 70),), overlap=0.4).parts(150, 200):
        corner = torch.rand(count, 2, generator=generator) * 60 + torch.tensor(part[:2])
        sides = torch.rand(count, 2, generator=generator) * 80 + 0.5
        values = torch.rand(count, generator=generator).sort(descending=True).values
        parts.append((part, scored(torch.cat([corner, corner + sides], 1).tolist(), values.tolist())))
    merged = merge_tiles(parts)
    assert 0 < len(merged.scores) <= sum(len(one.scores) for _, one in parts)
    assert bool((merged.boxes_xyxy[:, 2:] >= merged.boxes_xyxy[:, :2]).all())
    assert float(merged.scores[0]) == max(float(one.scores[0]) for _, one in parts)
    again = merge_tiles(parts)
    assert torch.equal(again.boxes_xyxy, merged.boxes_xyxy)
