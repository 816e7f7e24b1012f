"""Masks on the page: over their objects, hidden by a switch, stronger under the pointer; none where there are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from detrscope.core.mask_pixels import masks_of_queries
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Masks
from detrscope.explorer.payload import trace_payload
from tests.explorer.conftest import Opened, until
from tests.support.traces import detector_of, picture

PIXEL = """([x, y]) => {
  const canvas = document.getElementById('stage'), copy = new OffscreenCanvas(1, 1).getContext('2d');
  copy.drawImage(canvas, -Math.round(x * canvas.width), -Math.round(y * canvas.height));
  return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
LEFT, RIGHT, OUTSIDE = (0.25, 0.5), (0.75, 0.5), (0.5, 0.5)  # points of the picture, 0..1


@pytest.fixture(scope="module")
def trace() -> TraceData:
    """Two detections, each with a mask: of the left and of the right quarter of the picture."""
    plain = detector_of("rfdetr-seg-nano").trace(torch.full((3, 60, 90), 128, dtype=torch.uint8))
    logits = torch.full_like(plain.logits, -8.0)
    logits[-1, 2, 1], logits[-1, 5, 0] = 3.0, 2.0
    masks = torch.full((1, plain.queries, 24, 36), -9.0)
    masks[0, 2, 6:18, 4:14], masks[0, 5, 6:18, 22:32] = 9.0, 9.0
    return replace(plain, logits=logits, masks=Masks(masks), records={})


def colour(page: Page, at: tuple[float, float]) -> tuple[int, ...]:
    return tuple(page.evaluate(PIXEL, list(at)))


def tint(page: Page, at: tuple[float, float]) -> int:
    """How far a point of the grey picture is from grey."""
    found = colour(page, at)
    return max(found) - min(found)


def test_masks_lie_over_their_objects_and_one_switch_hides_them(opened: Opened, trace: TraceData) -> None:
    page = opened.report(trace)
    assert page.is_visible("#masks-row") and page.is_checked('[data-state="masks"]')
    assert tint(page, LEFT) > 20 and tint(page, RIGHT) > 20 and tint(page, OUTSIDE) < 8
    assert colour(page, LEFT) != colour(page, RIGHT), "colours are those of the classes"
    page.uncheck('[data-state="masks"]')
    assert tint(page, LEFT) < 8 and tint(page, RIGHT) < 8
    assert "masks=0" in page.url
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert not page.is_checked('[data-state="masks"]') and tint(page, LEFT) < 8


def test_hovering_highlights_a_mask(opened: Opened, trace: TraceData) -> None:
    page = opened.report(trace)
    faint = tint(page, RIGHT)
    page.hover('#detections li[data-query="5"]')
    until(page, "detrscope.app.hovered === 5")
    page.wait_for_timeout(100)
    assert tint(page, RIGHT) > 1.4 * faint
    page.mouse.move(2, 2)
    until(page, "detrscope.app.hovered === null")
    page.wait_for_timeout(100)
    assert tint(page, RIGHT) == faint


def test_only_masks_of_what_scores_enough_are_drawn(opened: Opened, trace: TraceData) -> None:
    page = opened.report(trace)
    page.locator('[data-state="threshold"]').fill("0.9")
    assert page.locator("#detections li").count() == 1
    assert tint(page, LEFT) > 20 and tint(page, RIGHT) < 8


def test_models_without_masks_have_no_switch(opened: Opened) -> None:
    page = opened.report(detector_of("detr-r18").trace(picture(60, 90)))
    assert not page.is_visible("#masks-row")


def test_the_page_has_the_same_pixels_as_the_trace(opened: Opened) -> None:
    trace = detector_of("rfdetr-seg-nano").trace(picture(60, 90))
    page = opened.report(trace)
    header = page.evaluate("detrscope.app.payload.header")
    assert trace.masks is not None and header["maskSize"] == [60, 90]
    expected = masks_of_queries(trace.masks, [4], 60, 90)[0].numpy()
    found = page.evaluate("Array.from(detrscope.maskOf(detrscope.app.payload, 4))")
    assert np.array_equal(np.array(found, bool).reshape(60, 90), expected)


def test_masks_travel_as_bits(trace: TraceData) -> None:
    large = replace(
        trace, geometry=replace(trace.geometry, width=900, height=600, crop_xyxy=(0, 0, 900, 600))
    )
    with_masks, without = (
        trace_payload(one, with_image=False) for one in (large, replace(large, masks=None))
    )
    assert len(with_masks.header) - len(without.header) < trace.queries * 256 * 171 / 8 + 300
    assert len(with_masks.embedded()) - len(without.embedded()) < 4000, "deflated"
