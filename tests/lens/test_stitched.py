"""Attention of tiles over the whole image: mass, place, and the mean where tiles overlap."""

from __future__ import annotations

import pytest
import torch

from detrscope.core.attention_map import Selection
from detrscope.core.tiling import Tiling
from detrscope.lens.maps import map_of_cross_attention
from detrscope.lens.stitched import stitch_attention
from detrscope.trace_interface import Trace
from tests.support.traces import detector_of

HEIGHT, WIDTH = 60, 100
IMAGE = torch.randint(
    0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
)
SITE = "decoder.1.cross"


def traces_of(tiling: Tiling) -> list[Trace]:
    detector = detector_of("sprint-dense-n")
    return [detector.trace(IMAGE, SITE, crop_xyxy=part) for part in tiling.parts(HEIGHT, WIDTH)]


def queries_of(trace: Trace, threshold: float) -> list[int]:
    return [*dict.fromkeys(trace.detections(threshold).query_ids.tolist())]


@pytest.mark.parametrize("smooth", [True, False])
def test_tiles_side_by_side_keep_the_mass_of_each_detection(smooth: bool) -> None:
    traces = traces_of(Tiling(((60, 50),), overlap=0, whole=False))
    assert len(traces) == 2
    threshold = sorted(t.detections(0).scores[2].item() for t in traces)[0]
    stitched = stitch_attention(traces, Selection(SITE), threshold, (HEIGHT, WIDTH), smooth)
    for trace, half in zip(traces, (stitched[:, :50], stitched[:, 50:]), strict=True):
        queries = queries_of(trace, threshold)
        expected = sum(map_of_cross_attention(trace, query).on_image(smooth) for query in queries)
        assert float(half.sum()) == pytest.approx(len(queries), abs=1e-4)
        x0, x1 = int(trace.geometry.crop_xyxy[0]), int(trace.geometry.crop_xyxy[2])
        torch.testing.assert_close(half, expected[:, x0:x1])


def test_overlapping_tiles_are_averaged() -> None:
    traces = traces_of(Tiling(((60, 60),), overlap=0.2, whole=False))
    places = [trace.geometry.crop_xyxy for trace in traces]
    assert places == [(0, 0, 60, 60), (40, 0, 100, 60)]
    stitched = stitch_attention(traces, Selection(SITE), 0.0, (HEIGHT, WIDTH))
    alone = [stitch_attention([trace], Selection(SITE), 0.0, (HEIGHT, WIDTH)) for trace in traces]
    torch.testing.assert_close(stitched[:, 40:60], (alone[0] + alone[1])[:, 40:60] / 2)
    torch.testing.assert_close(stitched[:, :40], alone[0][:, :40])
    assert not alone[0][:, 60:].any()


def test_a_smaller_result_has_the_same_attention_per_pixel() -> None:
    traces = traces_of(Tiling(((60, 50),), overlap=0, whole=False))
    full = stitch_attention(traces, Selection(SITE), 0.0, (HEIGHT, WIDTH), smooth=False)
    half = stitch_attention(traces, Selection(SITE), 0.0, (HEIGHT // 2, WIDTH // 2), smooth=False)
    assert float(half.sum()) * 4 == pytest.approx(float(full.sum()), rel=1e-4)
    torch.testing.assert_close(half, full.view(30, 2, 50, 2).mean((1, 3)), rtol=1e-3, atol=1e-7)


def test_without_detections_nothing_is_attended() -> None:
    stitched = stitch_attention(traces_of(Tiling(((60, 50),))), Selection(SITE), 1.0, (6, 10))
    assert stitched.shape == (6, 10) and not stitched.any()


def test_rows_of_tiles_in_a_smaller_result() -> None:
    traces = traces_of(Tiling(((30, 100),), overlap=0, whole=False))
    assert [trace.geometry.crop_xyxy for trace in traces] == [(0, 0, 100, 30), (0, 30, 100, 60)]
    full = stitch_attention(traces, Selection(SITE), 0.0, (HEIGHT, WIDTH), smooth=False)
    half = stitch_attention(traces, Selection(SITE), 0.0, (HEIGHT // 2, WIDTH // 2), smooth=False)
    torch.testing.assert_close(half, full.view(30, 2, 50, 2).mean((1, 3)), rtol=1e-3, atol=1e-7)


def test_a_tile_of_less_than_a_pixel_has_one() -> None:
    traces = traces_of(Tiling(((60, 50),), overlap=0, whole=False))
    stitched = stitch_attention(traces, Selection(SITE), 0.0, (1, 1))
    assert stitched.shape == (1, 1) and stitched.isfinite().all()
    alone = stitch_attention(traces[:1], Selection(SITE), 0.0, (3, 3))
    assert alone[:, 2].eq(0).all(), "the left tile ends at the middle"
