"""Masks in traces: the same as `detect` gives, on disk, checked when read, drawn in the picture with detections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Masks
from detrscope.trace_interface import Trace
from detrscope.views.detections import detections_data
from detrscope.views.options import ViewOptions
from tests.support.traces import detector_of, picture, traced


@pytest.fixture(scope="module")
def trace() -> TraceData:
    return detector_of("rfdetr-seg-nano").trace(picture(60, 90))


def with_square(trace: TraceData, query: int) -> TraceData:
    """The trace with a mask of one query, in the middle of the image, and nothing elsewhere."""
    logits = torch.full((1, trace.queries, 10, 10), -5.0)
    logits[0, query, 3:7, 3:7] = 5.0
    return replace(trace, masks=Masks(logits))


def test_detections_of_a_trace_have_the_masks_of_detect(trace: TraceData) -> None:
    for variant in ("rfdetr-seg-nano", "detr-r50-panoptic"):
        detector, image = detector_of(variant), picture(60, 90)
        found, seen = detector.detect(image, threshold=0.0), detector.trace(image).detections(0.0)
        assert found.masks is not None and seen.masks is not None
        assert torch.equal(found.query_ids, seen.query_ids)
        assert (found.masks == seen.masks).float().mean() > 0.999, variant
    assert traced("detr-r18").masks is None and traced("detr-r18").detections(0.0).masks is None
    assert trace.detections(0.0, layer=0).masks is None, "only the last layer predicts masks"


def test_masks_are_written_and_read(trace: TraceData, tmp_path: Path) -> None:
    assert isinstance(trace, Trace) and trace.masks is not None
    trace.save(tmp_path / "a.trace")
    read = Trace.load(tmp_path / "a.trace").masks
    assert read is not None and torch.equal(read.logits, trace.masks.logits)


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        (Masks(torch.zeros(1, 3, 5, 5)), "masks"),
        (Masks(torch.zeros(1, 7, 5)), "masks"),
        (Masks(torch.zeros(1, 7, 5, 5, dtype=torch.int64)), "masks"),
        (Masks(torch.zeros(1, 7, 5, 5), torch.tensor([[0.5, 1.5]])), "expected two parts of 1"),
        (Masks(torch.zeros(1, 7, 5, 5), torch.tensor([[float("nan"), 1.0]])), "expected two parts of 1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    trace: TraceData, masks: Masks, reason: str, tmp_path: Path
) -> None:
    assert isinstance(trace, Trace)
    replace(trace, masks=masks).save(tmp_path / "a.trace")
    with pytest.raises(UserError, match=reason):
        Trace.load(tmp_path / "a.trace")


@pytest.mark.parametrize("original", [True, False], ids=["original", "input"])
def test_the_picture_with_detections_is_tinted_inside_masks_only(trace: TraceData, original: bool) -> None:
    shown = with_square(trace if original else replace(trace, original=None), 3)
    options = ViewOptions(queries=(3, 5))
    bare = detections_data(replace(shown, masks=None), options)
    data = detections_data(shown, options)
    assert "tinted: their masks" in data.caption and "tinted" not in bare.caption
    changed = (bare.viewport.image != data.viewport.image).any(-1)
    height, width = changed.shape
    inside = np.zeros_like(changed)
    inside[round(0.25 * height) : round(0.75 * height), round(0.25 * width) : round(0.75 * width)] = True
    assert changed.any() and not changed[~inside].any()
    assert changed[inside].mean() > 0.5
