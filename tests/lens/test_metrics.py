"""Measures against scipy, plain loops and counted pixels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.types import Level
from detrscope.lens.measure import measure
from detrscope.lens.metrics import (
    effective_tokens,
    entropy,
    head_agreement,
    mass_in,
    mean_distance,
    points_into,
)
from detrscope.lens.report import (
    report_attention_differences,
    report_layer_means,
    write_measurements_csv,
    write_measurements_json,
)
from detrscope.lens.token_coverage import centres_of_covered_tokens, cover_of_boxes, cover_of_masks
from tests.support.tiny_models import distinct
from tests.support.traces import detector_of, picture, traced

LEVELS = (Level(6, 8), Level(3, 4))
GEOMETRY = Geometry(48, 64, (0.0, 0.0, 64.0, 48.0), (96, 128), (96, 128))


def rows(heads: int = 2, count: int = 3) -> torch.Tensor:
    made = torch.rand(heads, count, 60, generator=torch.Generator().manual_seed(0)) ** 4
    made[:, 0, 10:] = 0
    return made / made.sum(-1, keepdim=True) * 0.8  # as deformable rows: some mass fell outside


def test_entropy_equals_scipy() -> None:
    expected = scipy_entropy(rows().numpy(), axis=-1)
    np.testing.assert_allclose(entropy(rows()).numpy(), expected, rtol=1e-5)
    even = torch.full((1, 1, 60), 1 / 60)
    assert float(effective_tokens(even)) == pytest.approx(60, rel=1e-5)
    assert float(effective_tokens(torch.eye(60)[None, :1])) == pytest.approx(1)
    assert bool(entropy(torch.zeros(1, 60)) == 0), "a row with nothing in it"


def test_agreement_is_one_minus_jensen_shannon() -> None:
    expected = 1 - jensenshannon(rows()[0].numpy(), rows()[1].numpy(), axis=-1, base=2) ** 2
    np.testing.assert_allclose(head_agreement(rows()).numpy(), expected, rtol=1e-4)
    same = rows()[:1].expand(8, -1, -1)
    torch.testing.assert_close(head_agreement(same), torch.ones(3), atol=1e-5, rtol=0)
    apart = torch.eye(60)[:4, None]
    torch.testing.assert_close(head_agreement(apart), torch.zeros(1), atol=1e-5, rtol=0)
    assert head_agreement(rows()[:1]).tolist() == [1, 1, 1]


def test_distance_and_pointing_equal_loops() -> None:
    centres = centres_of_covered_tokens(GEOMETRY, LEVELS)
    assert centres.shape == (60, 2) and centres[0].tolist() == [4, 4] and centres[48].tolist() == [8, 8]
    start = torch.tensor([[0.0, 0.0], [32.0, 24.0], [64.0, 48.0]])
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [20.0, 10.0, 60.0, 40.0], [0.0, 0.0, 64.0, 48.0]])
    found, into = mean_distance(rows(), start, centres), points_into(rows(), centres, boxes)
    for h in range(2):
        for n in range(3):
            weights = rows()[h, n] / rows()[h, n].sum()
            expected = sum(
                float(w) * float((c - start[n]).norm()) for w, c in zip(weights, centres, strict=True)
            )
            assert float(found[h, n]) == pytest.approx(expected, rel=1e-4)
            weighed = rows()[h, n].tolist()
            x, y = centres[weighed.index(max(weighed))].tolist()
            x0, y0, x1, y1 = boxes[n].tolist()
            assert bool(into[h, n]) == (x0 <= x <= x1 and y0 <= y <= y1)
    assert into[:, 2].all() and not into.all()


@pytest.mark.parametrize(
    "geometry",
    [
        GEOMETRY,
        Geometry(48, 64, (0.0, 0.0, 64.0, 48.0), (72, 96), (96, 128)),  # padded
        Geometry(48, 64, (8.0, 6.0, 56.0, 42.0), (72, 96), (80, 112)),  # cropped and padded, cells cut
    ],
)
def test_box_cover_equals_pixel_counts(geometry: Geometry) -> None:
    """A box on whole pixels, against the mask of these pixels; and mass inside against mass on those pixels."""
    box = torch.tensor([[10.0, 7.0, 41.0, 33.0]])
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[7:33, 10:41] = True
    cover = cover_of_boxes(box, geometry, LEVELS)[0]
    torch.testing.assert_close(cover, cover_of_masks(mask[None], geometry, LEVELS)[0], atol=1e-4, rtol=0)
    assert cover.min() >= 0 and cover.max() <= 1 + 1e-6
    for part, level in zip(cover.split([48, 12]), LEVELS, strict=True):
        values = torch.rand(level) * geometry.inside(level)
        down, across = geometry.spread(level)
        on_pixels = (down @ values @ across.T)[mask].sum()
        torch.testing.assert_close(mass_in(values.flatten(), part), on_pixels, atol=1e-4, rtol=1e-4)


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"mask of \[48, 65\]: expected the size of the image, \[48, 64\]"):
        cover_of_masks(torch.zeros(1, 48, 65), GEOMETRY, LEVELS)


@pytest.mark.parametrize("variant", distinct())
def test_every_layer_and_head_is_measured(variant: str) -> None:
    trace = traced(variant)
    left = torch.zeros(50, 90, dtype=torch.bool)
    left[:, :30] = True
    measurements = measure(trace, [1, 4], masks={"left": left, "right": ~left})
    for kind in ("encoder.self", "decoder.self", "decoder.cross"):
        for layer in range(trace.layers(kind)):
            record = trace.record(trace.site(kind, layer))
            heads = record.shape[0]
            here = [m for m in measurements if (m.kind, m.layer) == (kind, layer)]
            queries = [None] if kind == "encoder.self" else [1, 4, None]
            assert [(m.query, m.head) for m in here] == [
                (q, h) for q in queries for h in [*range(heads), None]
            ]
            for m in here:
                assert 0 <= m.mass <= 1 + 1e-5 and 1 - 1e-4 <= m.effective <= m.keys + 1e-2
                assert 0 <= m.distance <= 2.5 and m.distance_px == pytest.approx(
                    m.distance * (50**2 + 90**2) ** 0.5
                )
                assert (m.agreement is None) == (m.head is not None)
                if kind != "decoder.self":
                    assert sum(m.parts.values()) == pytest.approx(m.mass, abs=1e-4)
            (mean,) = [m for m in here if m.head is None and m.query is None]
            every = [m for m in here if m.head is not None and m.query is None]
            assert mean.entropy == pytest.approx(sum(m.entropy for m in every) / heads, rel=1e-4)
    one = next(
        m for m in measurements if m.kind == "decoder.cross" and m.layer == 1 and m.query == 4 and m.head == 2
    )
    row = trace.record("decoder.1.cross").rows()[0, 2, 4]
    assert one.entropy == pytest.approx(float(scipy_entropy(row.numpy())), rel=1e-4)
    cover = cover_of_boxes(trace.boxes_xyxy()[4:5], trace.geometry, trace.levels)[0]
    assert one.in_box == pytest.approx(float((row * cover).sum()), abs=1e-5)
    assert one.box_area == pytest.approx(float(cover.mean()), abs=1e-5)
    lines = report_attention_differences(
        measurements
    )  # of tokens and queries: the smallest DEIMv2 has no encoder
    has_tokens = bool(trace.sites_of("encoder.self") or trace.sites_of(trace.token_kind))
    assert len(lines) == (4 if has_tokens else 0) and "nan" not in " ".join(lines[:2])


def test_large_encoders_are_measured_at_some_tokens() -> None:
    trace = detector_of("detr-r18", 256, 512).trace(picture(), sites=["encoder.0.self"])
    every, some = measure(trace)[-1], measure(trace, tokens=40)[-1]
    assert every.rows == every.keys == 8 * 15 and some.rows == 40 and some.keys == every.keys
    assert some.entropy == pytest.approx(every.entropy, rel=0.05)
    assert report_attention_differences(measure(trace)) == [], "no decoder was recorded"


def test_tables_are_written(tmp_path: Path) -> None:
    measurements = measure(traced("detr-r18"), masks={"all": torch.ones(50, 90)})
    write_measurements_csv(tmp_path / "m.csv", measurements)
    write_measurements_json(tmp_path / "m.json", measurements)
    with open(tmp_path / "m.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    tree = json.loads((tmp_path / "m.json").read_text())
    assert len(lines) == len(measurements) == len(tree["measurements"]) and len(tree["summary"]) == 4
    for line, m in zip(lines, measurements, strict=True):
        assert float(line["entropy"]) == m.entropy and line["kind"] == m.kind
        assert line["on all"] == (str(m.parts["all"]) if m.parts else "")
        assert line["head"] == ("" if m.head is None else str(m.head))
    assert [m.layer for m in report_layer_means(measurements)] == [0, 1, 0, 1, 0, 1]
    with pytest.raises(UserError, match="query 9: this model has queries 0 to 6"):
        measure(traced("detr-r18"), [9])
