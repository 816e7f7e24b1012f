"""Parameter groups and the optimizer over them."""

from __future__ import annotations

import pytest
from torch import nn

from detrscope.core.errors import UserError
from detrscope.training.optimizer import (
    freeze,
    groups_table,
    is_hidden_matrix,
    make_optimizer,
    parameter_groups,
    set_rates,
)
from detrscope.training.train_config import TrainConfig
from tests.support.tiny_models import tiny
from tests.support.tiny_training import TinyDetector


def test_backbone_has_its_own_learning_rate() -> None:
    model = TinyDetector()
    base, backbone = parameter_groups(model, TrainConfig())
    assert (base.name, base.lr, base.weight_decay) == ("base", 1e-4, 1e-4)
    assert (backbone.name, backbone.lr, backbone.weight_decay) == ("backbone", 1e-5, 1e-4)
    assert set(backbone.parameters) == {n for n, _ in model.named_parameters() if n.startswith("backbone.")}
    assert base.size + backbone.size == sum(p.numel() for p in model.parameters())


def test_patterns_give_factors_and_the_first_one_wins() -> None:
    config = TrainConfig(lr=1.0, lr_factors={"heads.3.*": 0.1, "heads.*": 0.5, "backbone.1.*": 2.0})
    groups = {g.name: g for g in parameter_groups(TinyDetector(), config)}
    assert {name: g.lr for name, g in groups.items()} == {
        "backbone": 1e-5, "heads.3.*": 0.1, "heads.*": 0.5, "backbone.1.*": 2.0,
    }  # fmt: skip
    assert set(groups["heads.3.*"].parameters) == {"heads.3.weight", "heads.3.bias"}


def test_pattern_without_match_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"'head\.\*' fits no trainable parameter; did you mean 'heads\.\*'\?$"
    ):
        parameter_groups(TinyDetector(), TrainConfig(lr_factors={"head.*": 0.1}))


def test_decay_1d_off_spares_biases_and_norms() -> None:
    groups = {g.name: g for g in parameter_groups(TinyDetector(), TrainConfig(decay_1d=False))}
    assert list(groups) == ["base", "base.1d", "backbone", "backbone.1d"]
    assert all(p.ndim == 1 for p in groups["backbone.1d"].parameters.values())
    assert groups["backbone.1d"].weight_decay == 0 and groups["backbone"].weight_decay == 1e-4


def test_frozen_backbone_is_listed_but_in_no_group() -> None:
    from rich.console import Console

    model = TinyDetector()
    freeze(model, TrainConfig(lr_backbone=0.0))
    groups = parameter_groups(model, TrainConfig())
    assert [g.name for g in groups] == ["base"]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(groups_table(groups, model))
    frozen = sum(p.numel() for p in model.backbone.parameters())
    assert (
        f"{groups[0].size:,}" in capture.get()
        and "frozen" in capture.get()
        and f"{frozen:,}" in capture.get()
    )


def test_rates_are_set_per_group() -> None:
    groups = parameter_groups(TinyDetector(), TrainConfig())
    optimizer = make_optimizer(groups, TrainConfig())
    set_rates(optimizer, groups, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [5e-5, 5e-6]
    set_rates(optimizer, groups, 0.5)  # from the full rate, not from the last one
    assert [g["lr"] for g in optimizer.param_groups] == [5e-5, 5e-6]


def test_muon_leaves_depthwise_convolutions_to_adamw() -> None:
    dense, depthwise = nn.Conv2d(32, 32, 5), nn.Conv2d(32, 32, 5, groups=32)
    assert is_hidden_matrix("backbone.conv.weight", dense.weight)
    assert not is_hidden_matrix("backbone.conv.weight", depthwise.weight)


def test_train_only_freezes_all_other_parameters() -> None:
    model = tiny("detr-r50-panoptic").model
    freeze(model, TrainConfig(train_only=("mask_head.*",)))
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"mask_head"}
    (group,) = parameter_groups(model, TrainConfig())
    assert group.name == "base" and all(name.startswith("mask_head.") for name in group.parameters)


def test_a_pattern_that_fits_no_parameter_is_refused() -> None:
    model = tiny("detr-r50-panoptic").model
    with pytest.raises(
        UserError, match=r"train_only: 'mask_heads\.\*' fits no parameter; .*'mask_head\.\*'\?$"
    ):
        freeze(model, TrainConfig(train_only=("mask_heads.*",)))
    with pytest.raises(
        UserError, match=r"'xyz' fits no parameter; valid: backbone\.\*, decoder\.\*, [a-z_.*, ]+$"
    ):
        freeze(model, TrainConfig(train_only=("xyz",)))
