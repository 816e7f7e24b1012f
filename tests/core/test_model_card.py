"""Model cards: every odd key or value is refused by name, shapes are compared before a model is built."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.native import HEADER, save_checkpoint
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.families import FAMILIES, family_config, resolve_variant
from detrscope.inference.load_detector import load
from detrscope.inference.torch_engine import require_torch_engine
from tests.support.tiny_models import CLASSES, built


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "good.safetensors"
    loaded = built("sprint-dense-n")
    save_checkpoint(path, loaded.model, loaded.card)
    return path


def with_card(good: Path, out: Path, change: dict[str, Any] | str) -> Path:
    """The same file with dotted keys of its card set, or with another text for it."""
    text = change if isinstance(change, str) else ""
    if not isinstance(change, str):
        card: dict[str, Any] = copy.deepcopy(built("sprint-dense-n").card.to_json())
        for key, value in change.items():
            node: Any = card
            *parents, last = key.split(".")
            for parent in parents:
                node = node[parent]
            node[last] = value
        text = json.dumps(card)
    path = out / "bad.safetensors"
    save_file(load_file(good), path, metadata={HEADER: text})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"oddity": 1}, "model card: unknown key 'oddity'"),
        ({"sources": 1}, "unknown key 'sources'; did you mean 'source'"),
        ({"format": "1"}, "has format '1'; this version reads format 1"),
        ({"scoring": "evil"}, "scoring: expected 'softmax' or 'sigmoid', found 'evil'"),
        ({"scoring": "softmax"}, "scoring is 'softmax', expected 'sigmoid' of sprint"),
        ({"preprocessing.std": [0, 1, 1]}, "preprocessing: std.0: expected greater than 0"),
        ({"preprocessing.mean": [float("nan")] * 3}, "preprocessing: mean.0: expected a finite number"),
        ({"preprocessing.mean": 0.5}, "preprocessing: mean: expected a valid list"),
        ({"preprocessing.short_side": 0}, "preprocessing: short_side"),
        ({"preprocessing.short_side": 10**400}, "preprocessing: short_side"),
        ({"preprocessing.fit": "exact"}, "preprocessing: fit 'exact' needs a box"),
        ({"preprocessing.colour": 1}, "preprocessing: unknown key 'colour'"),
        ({"preprocessing": None}, "preprocessing: expected a valid dict"),
        ({"classes": {"1": "dog"}}, "classes: expected a valid list"),
        ({"classes": [{"id": "1", "name": "dog"}]}, "classes.0.id"),
        ({"classes": [{"id": 1, "name": 5}]}, "classes.0.name"),
        ({"classes": [{"id": 1, "name": "a"}] * 2}, "category ids must be unique"),
        ({"metrics": {"AP": "high"}}, "metrics.AP"),
        ({"family": "unheard"}, "family 'unheard' is not known; valid: d_fine, deformable_detr"),
        ({"family": 3}, "family: expected a valid string"),
        ({"config": []}, "config: expected a valid dict"),
        ({"config.width": "wide"}, "config: width"),
        ({"config.oddity": 1}, "config: unknown key 'oddity'"),
        ({"config.decoder.layers": 20_000}, "config: decoder.layers is 20000: expected 100 or less"),
        ({"config.decoder.layers": 90}, "does not fit its card: missing decoder.layers.2"),
        ({"config.width": 16_384}, "does not fit its card"),
        ({"config.queries": 10**9}, "config: queries is 1000000000"),
        ({"config.backbone.widths": [10**9] * 3}, "config: backbone.widths"),
        ("[]", "model card: expected a JSON object, found list"),
        ("3", "model card: expected a JSON object, found number"),
        ("{", "model card: not valid JSON"),
        ("[" * 100_000, "model card: nested too deep"),
        ('{"format": ' + "1" * 5000 + "}", "model card has format inf"),
    ],
)
def test_malformed_cards_are_refused(
    change: dict[str, Any] | str, says: str, good: Path, tmp_path: Path
) -> None:
    path = with_card(good, tmp_path, change)
    started = time.monotonic()
    with pytest.raises(UserError, match=says) as error:
        load_model(path)
    assert time.monotonic() - started < 20, "it was built before it was compared"
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_cards_round_trip_through_files() -> None:
    for variant in ("sprint-dense-n", "detr-r18", "deformable-detr-r50"):
        card = built(variant).card
        assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))).to_json() == card.to_json()


def test_nonfinite_metrics_are_left_out() -> None:
    card = ModelCard(**{**vars(built("sprint-dense-n").card), "metrics": {"AP": 0.5, "AR": float("nan")}})
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))).metrics == {"AP": 0.5}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
@pytest.mark.parametrize(
    "tree",
    [
        {"width": 0}, {"width": 1 << 40}, {"queries": 0}, {"queries": 10**8}, {"encoder": {"layers": -1}},
        {"encoder": {"layers": 20_000}}, {"decoder": {"layers": 0}}, {"decoder": {"heads": 0}},
        {"decoder": {"feedforward": 10**9}}, {"decoder": {"dropout": 1.5}}, {"backbone": 3},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(family: Any, tree: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a file: "):
        family_config(family, tree, source="a file")


def test_every_variant_config_is_valid() -> None:
    for family in FAMILIES.values():
        for variant in family.variants:
            assert resolve_variant(variant.name, {}) == variant.config


def test_random_weights_are_reproducible() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one, other = (load("sprint-deformable-n", weights="random", device="cpu") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers go on"
    first_state, second_state = (
        require_torch_engine(d.engine, "test").model.state_dict() for d in (one, other)
    )
    for (key, first), second in zip(first_state.items(), second_state.values(), strict=True):
        assert torch.equal(first, second), key
    assert one.card.source == "random weights of seed 0"
    heads = [load("sprint-dense-n", classes=list(CLASSES.names), device="cpu") for _ in range(2)]
    assert torch.equal(
        *(require_torch_engine(head.engine, "test").model.heads.class_head.weight for head in heads)
    )
