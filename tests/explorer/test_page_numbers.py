"""What the page computes equals Python's maps, for every variant, within the rounding of half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from detrscope.core.records import DeformableRecord
from detrscope.core.trace_data import TraceData
from detrscope.lens.changes import detection_changes
from detrscope.lens.incoming_attention import incoming_from_tokens
from detrscope.trace_interface import Trace
from tests.explorer.conftest import Opened
from tests.support.tiny_models import distinct
from tests.support.traces import detector_of, picture

ROW = """([site, row]) => {
  const { payload } = detrscope.app;
  return detrscope.attentionRow(payload, payload.site(site), row).heads.map((head) => Array.from(head));
}"""
INCOMING = """([site, key]) => {
  const { payload } = detrscope.app;
  return Array.from(detrscope.incomingAttention(payload, payload.site(site), key, "mean"));
}"""
LOOK = """(hash) => {
  const looked = detrscope.look(detrscope.app.payload, detrscope.stateOf(hash));
  return [looked.grid.height, looked.grid.width, Array.from(looked.grid.values)];
}"""


def near(found: Any, expected: torch.Tensor) -> None:
    """Half precision of queries and keys: scores right to about a thousandth."""
    np.testing.assert_allclose(np.array(found), expected.numpy(), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("variant", distinct())
def test_rows_columns_and_maps_equal_pythons(variant: str, opened: Opened) -> None:
    trace = detector_of(variant).trace(picture(60, 90))
    page = opened.report(trace)
    for site in trace.sites:
        record = trace.record(site)
        _, queries, keys = record.shape
        for row in (0, queries // 2, queries - 1):
            near(page.evaluate(ROW, [site, row]), record.rows(torch.tensor([row]))[0, :, 0].float())
        key = keys // 3
        near(page.evaluate(INCOMING, [site, key]), record.rows()[0, :, :, key].float().mean(0))
    cross = trace.cross_attention(query=2, layer=0, head=1)
    height, width, values = page.evaluate(LOOK, "#query=2&layer=0&head=1")
    assert (height, width) == tuple(cross.values.shape)
    near(values, cross.values.flatten())
    last = len(trace.levels) - 1
    one = trace.cross_attention(query=1, level=last)
    near(page.evaluate(LOOK, f"#query=1&level={last}")[2], one.values.flatten())
    if trace.sites_of(trace.token_kind):
        own = len(trace.levels_at(trace.site(trace.token_kind, 0))) - 1
        point = trace.self_attention(point=(50.5, 20.5), from_level=own)
        near(page.evaluate(LOOK, f"#kind=point&x=50.5&y=20.5&fromLevel={own}")[2], point.values.flatten())
        incoming = incoming_from_tokens(trace, (50.5, 20.5), level=0, from_level=0)
        near(page.evaluate(LOOK, "#kind=incoming&x=50.5&y=20.5&level=0")[2], incoming.values.flatten())


@pytest.mark.parametrize("variant", ["detr-r18", "sprint-deformable-n"])
def test_edited_records_give_edited_rows(variant: str, opened: Opened) -> None:
    detector = detector_of(variant)
    edits = [
        "decoder.*.cross: heads 1 keys 0-3 x0.3",
        "decoder.*.cross: favour region 5,5,40,40 +1",
        "encoder.*.self: hide region 50,20,80,50",
        "*: queries 2 heads 0 x0.5",
    ]
    page = opened.report(detector.trace(picture(60, 90), edits=edits))
    trace = detector.trace(picture(60, 90), edits=edits)
    for site in trace.sites:
        for row in (0, 2):
            near(
                page.evaluate(ROW, [site, row]), trace.record(site).rows(torch.tensor([row]))[0, :, 0].float()
            )
        record = trace.record(site)
        near(page.evaluate(INCOMING, [site, 3]), record.rows()[0, :, :, 3].float().mean(0))
    if isinstance(trace.record(trace.sites[0]), DeformableRecord):
        assert trace.record(trace.sites[0]).key_gain is not None  # type: ignore[union-attr]


def squares(trace: TraceData, threshold: float) -> list[tuple[int, str, float]]:
    found = trace.detections(threshold)
    return sorted(zip(found.query_ids.tolist(), found.names, found.scores.tolist(), strict=True))


@pytest.mark.parametrize("variant", ["detr-r18", "sprint-dense-n"])
def test_detections_and_changes_equal_pythons(variant: str, opened: Opened) -> None:
    detector = detector_of(variant)
    before = detector.trace(picture(60, 90))
    after = detector.trace(picture(60, 90), edits=["decoder.*.cross: x0"])
    page = opened.report(before, after)
    threshold = float(before.detections(0.0).scores.median())
    found = page.evaluate("(t) => detrscope.detections(detrscope.app.plain, t)", threshold)
    assert sorted((one["query"], one["name"]) for one in found) == [
        (q, n) for q, n, _ in squares(before, threshold)
    ]
    for one in found:
        row = before.boxes_xyxy()[one["query"]]
        np.testing.assert_allclose(one["box"], row.numpy(), atol=1e-3)
    changes = page.evaluate(
        "(t) => detrscope.changesOf(detrscope.app.plain, detrscope.app.payload, t)", threshold
    )
    expected = detection_changes(before, after, threshold)
    kinds = [change.kind for change in expected]
    assert sorted(change["kind"] for change in changes) == sorted(kinds)
    gone = {change.before.query for change in expected if change.before and not change.after}
    assert {change["before"]["query"] for change in changes if change["kind"] == "vanished"} == gone


def test_points_of_the_image_are_pythons_tokens(opened: Opened) -> None:
    trace = Trace.of(detector_of("detr-r18", 65, 97).trace(picture(61, 88), crop_xyxy=(10, 7, 80, 55)))
    page = opened.report(trace)
    for x, y in ((10.0, 7.0), (79.9, 54.9), (33.3, 21.7), (80.0, 55.0)):
        found = page.evaluate(
            "([x, y]) => detrscope.tokenAt(detrscope.app.payload.header, {x, y}, 0)", [x, y]
        )
        assert found == trace.token_at((x, y))
    assert page.evaluate("detrscope.tokenAt(detrscope.app.payload.header, {x: 5, y: 20}, 0)") is None


def test_pairs_of_boxes_are_scipys(opened: Opened) -> None:
    page = opened.report(detector_of("sprint-dense-n").trace(picture()))
    generator = np.random.default_rng(0)
    for rows, columns in ((1, 1), (3, 5), (6, 2), (12, 12), (40, 31)):
        gain = generator.random((rows, columns)) * (generator.random((rows, columns)) < 0.4)
        partners = page.evaluate("gain => detrscope.bestPairs(gain)", gain.tolist())
        found = sum(gain[i, j] for i, j in enumerate(partners) if j >= 0)
        assert found == pytest.approx(gain[linear_sum_assignment(gain, maximize=True)].sum())
        chosen = [j for j in partners if j >= 0]
        assert len(chosen) == len(set(chosen)) and len(partners) == rows
    assert page.evaluate("detrscope.bestPairs([])") == []


def test_numbers_are_written_with_three_digits(opened: Opened) -> None:
    page = opened.report(detector_of("sprint-dense-n").trace(picture()))
    numbers = [100, 120, 850, 7, 0.5, 0.123456, 0.0012345, 0, 999.6, 12345, 1e-7, -40]
    expected = ["100", "120", "850", "7", "0.5", "0.123", "0.00123", "0", "1000", "1.2e+4", "1.0e-7", "-40"]
    assert page.evaluate("numbers => numbers.map(detrscope.shortNumber)", numbers) == expected
