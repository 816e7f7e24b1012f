"""Detection in tiles: objects on edges, batches, small images, and AP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detrscope.commands.evaluate import evaluate
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.tiling import Tiling
from detrscope.inference.detector import Detector
from detrscope.inference.image_detections import CSV_COLUMNS, ImageDetections
from tests.support.many_squares import (
    CLASSES,
    SQUARES,
    ManySquares,
    draw_squares,
    squares_detector,
    write_squares,
)
from tests.support.traces import detector_of, picture

TILING = Tiling(((100, 100),), overlap=0.3, whole=False)


def found(detector: Detector, tiling: Tiling | None = TILING) -> list[tuple[str, list[float]]]:
    detections = detector.detect(draw_squares(200, 300, SQUARES), 0.7, tiling=tiling)
    return sorted(zip(detections.names, detections.boxes_xyxy.round().tolist(), strict=True))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_objects_on_edges_are_found_once_and_whole(whole: bool, batch_size: int) -> None:
    expected = sorted((CLASSES.names[index], [*map(float, box)]) for index, box in SQUARES)
    detector = squares_detector()
    assert found(detector, Tiling(((100, 100),), 0.3, whole, batch_size)) == expected
    assert isinstance(detector.engine, ManySquares)
    shapes = detector.engine.shapes
    assert {shape[2:] for shape in shapes} == {(100, 100)} | ({(200, 300)} if whole else set())
    assert max(shape[0] for shape in shapes) == min(batch_size, 12)
    assert sum(shape[0] for shape in shapes) == 12 + whole


def test_tiles_say_where_a_query_looked() -> None:
    detector = squares_detector()
    image = draw_squares(200, 300, SQUARES)
    detections = detector.detect(image, 0.7, tiling=TILING)
    assert detections.tiles_xyxy is not None and detections.tiles_xyxy.shape == (5, 4)
    for row in range(5):
        x0, y0, x1, y1 = detections.tiles_xyxy[row].tolist()
        query = int(detections.query_ids[row])
        there = detector.detect(image[:, y0:y1, x0:x1], 0.0)
        name = there.names[there.query_ids.tolist().index(query)]
        assert name == detections.names[row]
    assert detector.detect(image).tiles_xyxy is None


def test_images_not_larger_than_a_tile_give_the_same_result() -> None:
    detector = detector_of("sprint-dense-n")
    image = picture()
    plain = detector.detect(image, 0.0)
    for tiling in (Tiling(((500, 500),)), Tiling(((50, 90),), whole=False)):
        tiled = detector.detect(image, 0.0, tiling=tiling)
        assert torch.equal(tiled.boxes_xyxy, plain.boxes_xyxy) and torch.equal(tiled.scores, plain.scores)
        assert torch.equal(tiled.query_ids, plain.query_ids) and tiled.names == plain.names


def test_a_threshold_only_leaves_out() -> None:
    detector, image = detector_of("sprint-dense-n"), picture()
    tiling = Tiling(((32, 40),))
    everything = detector.detect(image, 0.0, tiling=tiling)
    middle = float(everything.scores.median())
    some = detector.detect(image, middle, tiling=tiling)
    assert 0 < len(some) < len(everything)
    assert torch.equal(some.boxes_xyxy, everything.boxes_xyxy[: len(some)])


def test_a_list_of_images_is_tiled() -> None:
    detector = squares_detector(Preprocessing(100, 100))
    images = [draw_squares(200, 300, SQUARES), draw_squares(50, 40, [])]
    first, second = detector.detect(images, tiling=Tiling(whole=False))
    assert (len(first), len(second)) == (5, 0)


def test_auto_needs_a_size_in_the_card() -> None:
    with pytest.raises(UserError, match="tile size: this model does not resize images"):
        squares_detector().detect(draw_squares(200, 300, []), tiling=Tiling())


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_in_tiles_is_of_merged_boxes(tmp_path: Path, workers: int) -> None:
    data = write_squares(tmp_path / "data")
    detector = squares_detector()
    evaluation = evaluate(detector, str(data), tiling=TILING, workers=workers)
    assert evaluation.boxes == 6
    assert [row.AP for row in evaluation.per_class] == pytest.approx([1, 1, 1])
    assert isinstance(detector.engine, ManySquares)
    assert {shape[2:] for shape in detector.engine.shapes} == {(100, 100), (40, 60)}


def test_evaluation_in_tiles_has_no_batches_of_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch size 2: tiled images are taken one by one"):
        evaluate(squares_detector(), str(write_squares(tmp_path / "data")), tiling=TILING, batch_size=2)


def test_json_has_the_tile_of_each_detection_and_csv_its_columns_as_ever() -> None:
    detector, image = squares_detector(), draw_squares(200, 300, SQUARES)
    tiled = ImageDetections("large.png", detector.detect(image, tiling=TILING))
    (first, *_), columns = tiled.to_json()["detections"], len(CSV_COLUMNS)
    assert tuple(first["tile_xyxy"]) in TILING.parts(200, 300)
    assert [len(row) for row in tiled.to_rows()] == [columns] * 5
    plain = ImageDetections("large.png", detector.detect(image))
    assert "tile_xyxy" not in plain.to_json()["detections"][0]
