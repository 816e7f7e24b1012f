"""Properties of boxes, geometry, class tables and trace files, for all the inputs that hypothesis draws."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou

from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes, xyxy_to_cxcywh
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import postprocess
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.trace_file import load_trace, save_trace
from detrscope.core.types import Level, Outputs
from detrscope.training.iou import iou_and_giou
from tests.support.equality import same
from tests.support.traces import detector_of, picture

coordinates = st.floats(-1e4, 1e4, width=32)
sides = st.floats(0, 1e4, width=32)
ids = st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=8, unique=True)


@st.composite
def corners(draw: st.DrawFn, least: int = 0) -> torch.Tensor:
    """Boxes [M, 4], some of them without an area."""
    count = draw(st.integers(least, 6))
    rows = []
    for _ in range(count):
        x, y = draw(coordinates), draw(coordinates)
        rows.append([x, y, x + draw(sides), y + draw(sides)])
    return torch.tensor(rows, dtype=torch.float64).view(-1, 4)


@given(corners())
def test_box_formats_go_back_and_forth(boxes: torch.Tensor) -> None:
    back = cxcywh_to_xyxy(xyxy_to_cxcywh(boxes))
    assert back.shape == boxes.shape and torch.allclose(back, boxes, atol=1e-9)
    again = xyxy_to_cxcywh(cxcywh_to_xyxy(boxes.abs()))
    assert torch.allclose(again, boxes.abs(), atol=1e-9)


@given(corners(), st.floats(1, 1e4), st.floats(1, 1e4))
def test_scaled_boxes_are_the_same_in_both_formats(boxes: torch.Tensor, width: float, height: float) -> None:
    one = scale_boxes(xyxy_to_cxcywh(boxes), width, height)
    other = xyxy_to_cxcywh(scale_boxes(boxes, width, height))
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-6)


@given(corners(), corners())
def test_overlaps_are_bounded_symmetric_and_torchvisions(a: torch.Tensor, b: torch.Tensor) -> None:
    iou, giou = iou_and_giou(a[:, None], b[None])
    assert iou.shape == giou.shape == (len(a), len(b))
    assert bool(((iou >= 0) & (iou <= 1 + 1e-12)).all()) and bool(
        ((giou >= -1 - 1e-12) & (giou <= iou + 1e-12)).all()
    )
    back, giou_back = iou_and_giou(b[:, None], a[None])
    assert torch.allclose(iou, back.T) and torch.allclose(giou, giou_back.T)
    real = ((a[:, 2:] - a[:, :2]).prod(1) > 1e-6)[:, None] & ((b[:, 2:] - b[:, :2]).prod(1) > 1e-6)
    assert torch.allclose(iou[real], box_iou(a, b)[real], atol=1e-9)
    assert torch.allclose(giou[real], generalized_box_iou(a, b)[real], atol=1e-9)


@given(corners(least=1))
def test_a_box_overlaps_itself_wholly(boxes: torch.Tensor) -> None:
    iou, giou = iou_and_giou(boxes, boxes)
    real = (boxes[:, 2:] - boxes[:, :2]).prod(1) > 1e-6
    assert torch.allclose(iou[real], torch.ones_like(iou[real])) and torch.allclose(giou[real], iou[real])
    assert bool(torch.isfinite(torch.stack([iou, giou])).all())


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    height, width = draw(st.integers(1, 600)), draw(st.integers(1, 600))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    content = (draw(st.integers(1, 400)), draw(st.integers(1, 400)))
    padded = (content[0] + draw(st.integers(0, 90)), content[1] + draw(st.integers(0, 90)))
    crop = (float(x0), float(y0), float(x1), float(y1))
    return Geometry(height, width, crop, content, padded, draw(st.integers(1, 8)))


@given(geometries(), st.integers(1, 20), st.integers(1, 20), st.data())
def test_points_and_cells_go_back_and_forth(
    geometry: Geometry, rows: int, columns: int, data: st.DataObject
) -> None:
    level = Level(rows, columns)
    points = torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 600
    assert torch.allclose(geometry.to_original(geometry.to_model(points)), points, atol=1e-6)
    inside = geometry.inside(level).flatten()
    centres = geometry.centres(level)
    x0, y0, x1, y1 = geometry.crop_xyxy
    token = data.draw(st.integers(0, level.tokens - 1))
    x, y = centres[token].double().tolist()
    if bool(inside[token]) and x0 <= x <= x1 and y0 <= y <= y1:
        assert geometry.token_at(x, y, level) == token
    with pytest.raises(UserError, match="outside of the image"):
        geometry.token_at(x1 + 1, y, level)


@given(ids, st.data())
def test_any_category_ids_come_out_as_they_went_in(category_ids: list[int], data: st.DataObject) -> None:
    names = tuple(f"class {i}" for i in range(len(category_ids)))
    table = ClassTable(tuple(category_ids), names)
    assert ClassTable.from_json(table.to_json()) == table
    assert [table.index_of(i) for i in category_ids] == list(range(len(names)))
    card = ModelCard("detr", "detr-r18", {}, table, Preprocessing(64, 96), "sigmoid")
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
    index = data.draw(st.integers(0, len(names) - 1))
    logits = torch.full((1, 1, 3, len(names)), -9.0)
    logits[0, 0, 1, index] = 9.0
    outputs = Outputs(logits, torch.full((1, 1, 3, 4), 0.5))
    (scored,) = postprocess(outputs, card, [(40, 60)])
    found = scored.detections(card.classes, 0.5, height=40, width=60)
    assert found.labels.tolist() == [category_ids[index]] and found.names == (names[index],)
    with pytest.raises(UserError, match="is not one of"):
        table.index_of(2**60)


@settings(max_examples=10)
@given(
    st.sampled_from(["detr-r18", "minimal-r50", "sprint-dense-n", "sprint-deformable-n"]),
    st.integers(3, 130),
    st.integers(3, 130),
    st.integers(32, 70),
    st.booleans(),
)
def test_traces_are_equal_after_saving_and_loading(
    variant: str, height: int, width: int, short: int, values: bool
) -> None:
    detector = detector_of(variant, short, 96)
    trace = detector.trace(picture(height, width), values=values, edits=["decoder.*.cross: heads 1 x0.5"])
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_trace(save_trace(trace, Path(folder) / "x.trace"))
    for name in ("logits", "boxes_cxcywh", "levels", "geometry", "targets", "image", "shapes"):
        assert same(getattr(loaded, name), getattr(trace, name)), name
    assert same(dict(loaded.records), dict(trace.records)) and loaded.edits == trace.edits
