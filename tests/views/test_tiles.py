"""Figures of a large image from the traces of its tiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from detrscope.commands.see_tiles import see_tiles, trace_tiles
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.tiling import Tiling
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import load
from detrscope.synthetic.scene import draw_scene
from detrscope.views.options import NoDetections, ViewOptions
from detrscope.views.tiles import draw_stitched, stitched_data, tile_queries_data

TILING = Tiling(((128, 128),), overlap=0.25)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load("sprint-dense-n", precision="fp32")


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Four scenes of 128 pixels, 256 x 256."""
    scenes = [torch.from_numpy(draw_scene(1, index, 128).image).permute(2, 0, 1) for index in (5, 7, 1, 3)]
    return torch.cat([torch.cat(scenes[:2], 2), torch.cat(scenes[2:], 2)], 1).contiguous()


def test_views_show_the_detections_of_detect(detector: Detector, image: torch.Tensor) -> None:
    found = detector.detect(image, 0.5, tiling=TILING)
    traces = trace_tiles(detector, image, TILING)
    data = stitched_data(traces)
    assert len(found) >= 2 and len(data.detections) == len(found)
    assert found.tiles_xyxy is not None
    for row, detection in enumerate(data.detections):
        assert detection.prediction.query == found.query_ids[row]
        assert detection.prediction.score == pytest.approx(float(found.scores[row]), abs=1e-5)
        assert detection.prediction.box_xyxy == pytest.approx(found.boxes_xyxy[row].tolist(), abs=1e-2)
        assert [*detection.tile_xyxy] == found.tiles_xyxy[row].tolist()
    assert "tiles of 128 x 128 pixels" in data.caption and "mean over the tiles" in data.caption


def test_traces_of_tiles_share_the_large_image(detector: Detector, image: torch.Tensor) -> None:
    for trace in trace_tiles(detector, image, TILING):
        assert trace.original is image
        assert trace.image.untyped_storage().nbytes() == trace.image.numel()


def test_each_map_is_that_of_its_tile(detector: Detector, image: torch.Tensor) -> None:
    data = tile_queries_data(trace_tiles(detector, image, TILING))
    for detection, attention in zip(data.detections, data.maps, strict=True):
        again = detector.trace(image, crop_xyxy=detection.tile_xyxy)
        expected = again.cross_attention(detection.prediction.query)
        torch.testing.assert_close(attention.values, expected.values)
        assert attention.geometry.crop_xyxy == detection.tile_xyxy


def test_attention_lies_over_the_boxes(detector: Detector, image: torch.Tensor) -> None:
    data = stitched_data(trace_tiles(detector, image, TILING))
    inside = torch.zeros(256, 256, dtype=torch.bool)
    for detection in data.detections:
        x0, y0, x1, y1 = map(round, detection.prediction.box_xyxy)
        inside[y0:y1, x0:x1] = True
    values = torch.from_numpy(data.values)
    assert float(values[inside].mean()) > 2 * float(values.mean())
    assert draw_stitched(data).pixels().shape[1] > 1000


def test_the_command_writes_two_figures_and_numbers(
    detector: Detector, image: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    (result,) = see_tiles(str(path), detector, tiling=TILING, out=tmp_path / "out", numbers=True)
    assert {name: file.name for name, file in result.files.items()} == {
        "tiles": "tiles.png",
        "tile-queries": "tile-queries.png",
    }
    assert all(file.is_file() for file in result.files.values())
    tree = json.loads(json.dumps(result.to_json()))
    assert len(tree["views"]["tiles"]["detections"]) == len(detector.detect(image, 0.5, tiling=TILING))
    assert len(tree["views"]["tile-queries"]["maps"]) == len(tree["views"]["tiles"]["detections"])


def test_what_tiles_cannot_show_is_refused(detector: Detector, image: torch.Tensor, tmp_path: Path) -> None:
    array = image.permute(1, 2, 0).numpy()
    with pytest.raises(UserError, match="queries: has no effect on the figures of tiles"):
        see_tiles(array, detector, tiling=TILING, options=ViewOptions(queries=(1,)))
    with pytest.raises(UserError, match="layer 7: this model has 3 layers"):
        see_tiles(array, detector, tiling=TILING, options=ViewOptions(layer=7))
    with pytest.raises(UserError, match="head 9"):
        see_tiles(array, detector, tiling=TILING, options=ViewOptions(head=9))
    with pytest.raises(NoDetections, match="nothing scores 1 or more; the best is 0"):
        see_tiles(array, detector, tiling=TILING, options=ViewOptions(threshold=1.0))
    Image.fromarray(array).save(tmp_path / "a.png")
    with pytest.raises(WorkFailed, match="none of the 1 images could be drawn"):
        see_tiles(str(tmp_path), detector, tiling=TILING, options=ViewOptions(threshold=1.0))
