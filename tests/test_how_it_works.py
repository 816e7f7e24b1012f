"""The figures of docs/how-it-works.md are those of the models, run once more."""

from __future__ import annotations

import os

import pytest
import torch

from detrscope.core.types import Batch
from detrscope.families import FAMILIES, family_of
from tests.support.scripts import load_script
from tests.support.tiny_models import built

shapes = load_script("shapes")
DRAWN = dict(shapes.FIGURE.findall(shapes.PAGE.read_text(encoding="utf-8")))
SLOW = ("minimal", "deformable_detr")  # seconds each; `scripts/nightly` runs them


def test_every_family_has_a_figure() -> None:
    assert set(DRAWN) == set(shapes.VARIANTS) == set(FAMILIES)
    assert all(family_of(variant).name == family for family, variant in shapes.VARIANTS.items())


@pytest.mark.parametrize("family", shapes.VARIANTS)
def test_figure_has_the_shapes_of_the_model(family: str) -> None:
    if family in SLOW and not os.environ.get("DETRSCOPE_ALL_VARIANTS"):
        pytest.skip("takes seconds: set DETRSCOPE_ALL_VARIANTS=1")
    assert DRAWN[family] == f"```\n{shapes.figure(family)}\n```"


def test_walk_is_the_path_of_forward() -> None:
    model = built("sprint-dense-n").model
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    *_, heads = shapes.walk(model, images)
    outputs = model(Batch(images))
    assert heads.gives == [
        f"{list(outputs.logits.shape)}  logits",
        f"{list(outputs.boxes_cxcywh.shape)}  boxes_cxcywh",
    ]


def test_a_wrong_figure_is_noticed() -> None:
    wrong = shapes.PAGE.read_text(encoding="utf-8").replace("[1, 128, 6, 8]", "[1, 128, 7, 9]")
    assert DRAWN["sprint"] != dict(shapes.FIGURE.findall(wrong))["sprint"]
