"""The numbers of every view as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from detrscope.families import FAMILIES
from detrscope.trace_interface import Trace
from detrscope.views import VIEWS
from detrscope.views.options import NotInTrace, ViewOptions
from tests.support.figures import CELL, QUERIES, made, peaked, trace_of

VARIANTS = [min(family.variants, key=lambda v: len(v.name)).name for family in FAMILIES.values()]


def numbers(trace: Trace, name: str, options: ViewOptions) -> dict[str, Any]:
    """The numbers of a view, after they have been written to JSON and read again."""
    text = json.dumps(VIEWS[name].data(trace, options).to_json(), allow_nan=False)
    return dict(json.loads(text))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("variant", [*VARIANTS, "deformable-detr-r50-two-stage", "sprint-deformable-n"])
def test_every_view_of_every_family_has_its_numbers_as_json(variant: str, name: str) -> None:
    trace = trace_of(variant)
    options = ViewOptions(queries=QUERIES, against=trace)
    try:
        data = VIEWS[name].data(trace, options)
    except NotInTrace as reason:
        assert name.startswith("points") and "no deformable attention" in str(reason)
        return
    tree = numbers(trace, name, options)
    figure = VIEWS[name].draw(data)
    assert tree["heading"] == figure.heading and tree["caption"] == figure.caption
    assert figure.numbers is data and figure.numbers.to_json() == data.to_json()
    assert len(tree) > 2 and not {"viewport", "colour"} & set(tree)


def test_maps_have_token_resolution_and_boxes_pixels_of_the_original() -> None:
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    tree = numbers(trace, "per-query", ViewOptions(queries=(2,)))
    (query,), (attention,) = tree["queries"], tree["maps"]
    assert (query["query"], query["name"]) == (2, "dog") and query["score"] == pytest.approx(0.9, abs=1e-6)
    assert query["box_xyxy"] == pytest.approx([12, 8, 36, 24], abs=1e-4)
    assert (attention["site"], attention["rows"], attention["head"]) == ("decoder.1.cross", [2], None)
    ((level, weights),) = (part.values() for part in attention["levels"])
    assert level == 0 and np.shape(weights) == (12, 18) and weights[2][5] == pytest.approx(1, abs=1e-4)
    assert attention["mass"] == pytest.approx(1) and CELL * 15 == 60


def test_numbers_equal_those_of_the_lens() -> None:
    trace = trace_of("deformable-detr-r50-two-stage")
    tree = numbers(trace, "heads", ViewOptions(queries=(4,)))
    for layer in tree["layers"]:
        for head, attention in enumerate(layer["maps"][:-1]):
            expected = trace.cross_attention(4, layer["layer"], head)
            for part, values in zip(attention["levels"], expected.parts, strict=True):
                torch.testing.assert_close(torch.tensor(part["weights"]), values, rtol=1e-4, atol=1e-7)
    table = numbers(trace, "metrics", ViewOptions(queries=(4,)))["measurements"]
    assert {row["kind"] for row in table} == {"encoder.self", "decoder.self", "decoder.cross"}
    assert all(row["in_box"] is None for row in table if row["kind"] == "decoder.self")
