"""Every line of the table of views, over dense and deformable traces alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detrscope as ds
from detrscope.core.errors import UserError
from detrscope.core.records import DeformableRecord
from detrscope.lens.relevance import relevance
from detrscope.lens.rollout import rollout
from detrscope.trace_interface import Trace
from detrscope.views import VIEWS, draw, features
from detrscope.views.canvas import PixelFigure
from detrscope.views.options import NoDetections, NotInTrace, ViewOptions
from tests.support.figures import QUERIES, VARIANTS, content, texts, trace_of
from tests.support.traces import detector_of, picture

DEFORMABLE = "deformable-detr-r50-two-stage"
every_view = pytest.mark.parametrize("name", VIEWS)


@pytest.fixture(autouse=True)
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_CHANNELS", 6)
    monkeypatch.setattr(features, "STRONGEST", 2)


def shown(name: str, trace: Trace, **options: Any) -> PixelFigure:
    against = trace if "against" in VIEWS[name].uses else None
    threshold = (
        0.0 if name == "changes" else ViewOptions().threshold
    )  # it shows detections, whatever the queries
    made = ViewOptions(queries=QUERIES, against=against, threshold=threshold)
    return VIEWS[name](trace, replace(made, **options))


def lacks(name: str, trace: Trace) -> bool:
    """Whether a view has nothing to show: points of attention that is not deformable."""
    crossing = trace.records[trace.site("decoder.cross")]
    return name.startswith("points") and not isinstance(crossing, DeformableRecord)


@every_view
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_view_draws_every_family_with_its_caption(variant: str, name: str) -> None:
    trace = trace_of(variant)
    if lacks(name, trace):
        with pytest.raises(NotInTrace, match=f"{variant} has no deformable attention at decoder.cross"):
            shown(name, trace)
        return
    sheet = shown(name, trace)
    assert variant in sheet.caption and sheet.caption.endswith((".", "decoder"))
    assert sheet.heading in " ".join(texts(sheet))  # wrapped, not lost
    written = " ".join(texts(sheet))
    assert sheet.caption in written
    if set(VIEWS[name].uses) & {"layer", "head"}:
        site = "encoder." if name == "encoder" else "decoder."
        assert site in sheet.caption and "softmax over" in sheet.caption, "layer and normalisation"
    assert 600 <= sheet.width <= 1600 and len(content(sheet)) > 10


@every_view
def test_every_view_is_saved_as_image_and_vectors(name: str, tmp_path: Path) -> None:
    sheet = shown(name, trace_of(DEFORMABLE))
    with Image.open(sheet.save(tmp_path / "a.png")) as image:
        assert image.size == (sheet.width, sheet.height)
        assert np.asarray(image).std() > 10
    for ending, mark, views in (
        ("svg", b"<svg", ("points", "query-self-attention")),
        ("pdf", b"%PDF", ("incoming", "metrics")),
    ):
        if name in views:  # every kind of artist
            assert mark in sheet.save(tmp_path / f"a.{ending}").read_bytes()[:1000]


CHANGES: dict[str, dict[str, Any]] = {
    "queries": {"queries": (2, 5)},
    "points": {"points": ((70.0, 10.0),)},
    "layer": {"layer": 0},
    "head": {"head": 3},
    "level": {"level": 2},
    "merge": {"merge": "max"},
    "from_level": {"from_level": 1},
    "cells": {"cells": True},
}


@every_view
def test_view_uses_exactly_the_listed_options(name: str) -> None:
    trace, used = trace_of(DEFORMABLE), [part for part in CHANGES if part in VIEWS[name].uses]
    before = content(shown(name, trace))
    for part in used:
        if part == "from_level":
            at = {"points": ((20.0, 30.0),)}
            assert content(shown(name, trace, **at)) != content(shown(name, trace, **at, from_level=1))
        else:
            assert content(shown(name, trace, **CHANGES[part])) != before, part
    unused = {k: v for part in CHANGES if part not in used for k, v in CHANGES[part].items()}
    assert content(shown(name, trace, **unused)) == before


@pytest.mark.parametrize("name", [name for name, view in VIEWS.items() if "level" in view.uses])
def test_negative_level_counts_from_the_end(name: str) -> None:
    trace = trace_of(DEFORMABLE)
    last = len(trace.levels) - 1
    one, other = (shown(name, trace, level=level) for level in (-1, last))
    assert one.caption == other.caption and texts(one) == texts(other)
    assert np.array_equal(one.pixels(), other.pixels())


def test_threshold_selects_queries() -> None:
    trace = trace_of("detr-r18")
    scores = trace.scores().amax(-1)
    limit = float(scores.sort(descending=True).values[2])
    for name, view in VIEWS.items():
        if "threshold" not in view.uses or lacks(name, trace) or name == "encoder":
            continue  # around the encoder's picture, places close to each other are left out
        low, high = (ViewOptions(threshold=t, against=trace) for t in (limit - 1e-6, limit + 1e-6))
        drawn = [content(view(trace, options)) for options in (low, high)]
        alone = name in ("heads", "by-layer", "relevance", "incoming")  # of the best only
        assert (drawn[0] == drawn[1]) == alone, name


def test_no_detections_error_says_what_to_do() -> None:
    trace = trace_of("detr-r18")
    best = trace.query_name(int(trace.scores().amax(-1).argmax()))
    for name in (
        "per-query",
        "mean",
        "heads",
        "by-layer",
        "incoming",
        "query-self-attention",
        "metrics",
        "detections",
    ):
        with pytest.raises(NoDetections) as error:
            VIEWS[name](trace, ViewOptions(threshold=1.0))
        assert (
            best in str(error.value)
            and "lower threshold" in str(error.value)
            and "\n" not in str(error.value)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": (7,)}, r"query 7: this trace has 7 queries, 0 to 6"),
        ({"layer": 2}, r"layer 2: this trace has 2 layers, 0 to 1"),
        ({"layer": -3}, r"layer -3: this trace has 2 layers"),
        ({"head": 4}, r"head 4: this trace has 4 heads, 0 to 3"),
        ({"level": 1}, r"level 1: this trace has one level, 0"),
        ({"points": ((91.0, 4.0),)}, r"point 91,4: is not on the image; expected x 0 to 90 and y 0 to 50"),
        ({"threshold": 1.5}, r"threshold 1.5: expected a score between 0 and 1"),
    ],
)
def test_indices_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw(trace_of("detr-r18"), "per-query", ViewOptions(**options))


def test_unknown_view_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"view 'per-qery' is not known; did you mean 'per-query'\?"):
        draw(trace_of("detr-r18"), "per-qery")


def test_missing_records_are_named() -> None:
    trace = trace_of("detr-r18")
    blind = replace(trace, records={}, features={})
    with pytest.raises(NotInTrace, match=r"decoder\.1\.cross was not recorded; trace with sites="):
        shown("per-query", blind)
    with pytest.raises(NotInTrace, match=r"no feature maps were recorded; trace with features="):
        shown("features", blind)
    with pytest.raises(NotInTrace, match=r"no decoder\.cross attention was recorded; trace with sites="):
        shown("heads", blind)
    with pytest.raises(NotInTrace, match=r"nothing to compare with"):
        VIEWS["compare"](trace, ViewOptions(queries=QUERIES))
    with pytest.raises(NotInTrace, match=r"layer 2: detr-r18 has 2 layers of encoder\.self, 0 to 1"):
        VIEWS["encoder"](trace, ViewOptions(layer=2, points=((5.0, 5.0),)))


@pytest.mark.parametrize("variant", ["detr-r18", DEFORMABLE])
def test_relevance_is_drawn_for_queries_with_gradients(variant: str) -> None:
    trace = detector_of(variant).trace(picture(), explain=[2])
    sheet = VIEWS["relevance"](trace, ViewOptions(queries=(2, 5)))
    written = texts(sheet)
    assert written.count("attention") == written.count("rollout") == 2 and written.count("relevance") == 1
    assert f"sums to {relevance(trace, 2).mass:.3g}" in written
    assert f"sums to {rollout(trace, 5).mass:.3g}" in written
    assert "equations 5 to 10" in sheet.caption and "trace with explain=[5]" in sheet.caption
    drawn = [i for i in sheet.figure().axes[0].images if np.asarray(i.get_array()).shape[-1] == 4]
    assert len(drawn) == 5, "a veil for each map"


def test_trace_draws_itself() -> None:
    trace = trace_of("sprint-dense-n")
    options = ViewOptions(queries=(3,))
    assert content(trace.draw("by-layer", options)) == content(ds.draw(trace, "by-layer", options))
    assert trace.draw("per-query", options)._repr_png_().startswith(b"\x89PNG")
