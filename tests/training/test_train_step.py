"""The train_step with real families: what is frozen, who moves what, passes without boxes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from detrscope.core.errors import UserError
from detrscope.core.types import Batch, Target
from detrscope.families import build
from detrscope.training.optimizer import make_optimizer, parameter_groups
from detrscope.training.schedule import constant
from detrscope.training.train_config import DenoisingConfig, MuonConfig, TrainConfig
from detrscope.training.train_step import TrainStep, check_training_support
from tests.support.tiny_models import built, tiny, tiny_settings

FABRIC = Fabric(accelerator="cpu", devices=1)
BOXES = Target(torch.tensor([0, 2]), torch.tensor([[0.3, 0.3, 0.3, 0.2], [0.7, 0.6, 0.4, 0.5]]))
NOTHING = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))


@dataclass(frozen=True)
class Sample:
    image_id: int


def micro_batch(*targets: Target) -> tuple[Batch, list[Target], list[Sample]]:
    images = torch.randn(len(targets), 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Batch(images), list(targets), [Sample(i) for i in range(len(targets))]


@pytest.mark.parametrize("order", [(BOXES, NOTHING), (NOTHING, BOXES), (NOTHING, NOTHING)])
def test_micro_batches_without_boxes_train(order: tuple[Target, Target]) -> None:
    config = TrainConfig(accumulate=2, denoising=DenoisingConfig(groups=2), lr_backbone=1e-4)
    train_step = TrainStep(tiny("sprint-dense-n").model.train(), config, FABRIC)
    values = train_step.step([micro_batch(order[0]), micro_batch(order[1])], 0, constant)
    assert torch.tensor(values["loss"]).isfinite()
    assert ("loss_class_denoising" in values) == any(target is BOXES for target in order)


def test_every_trainable_parameter_gets_a_gradient_with_and_without_boxes() -> None:
    """Devices that train together must agree on it."""
    for targets in ((BOXES, NOTHING), (NOTHING, NOTHING)):
        train_step = TrainStep(
            tiny("sprint-dense-n").model.train(), TrainConfig(denoising=DenoisingConfig(groups=1)), FABRIC
        )
        train_step.losses(micro_batch(*targets)).total.backward()
        assert not [n for n, p in train_step.model.named_parameters() if p.requires_grad and p.grad is None]


def test_frozen_norms_keep_their_statistics() -> None:
    train_step = TrainStep(tiny("sprint-dense-n").model, TrainConfig(lr_backbone=0), FABRIC)
    train_step.train_mode()
    norms = {name: m for name, m in train_step.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms
    assert all(m.training != name.startswith("backbone") for name, m in norms.items())
    assert train_step.model.training


def test_muon_takes_hidden_matrices_and_keeps_the_backbones_ratio() -> None:
    model = build(
        "detr-r18", {**tiny_settings("detr-r18"), "position": "learned", "backbone": {"name": "resnet18"}}, 3
    )
    groups = {g.name: g for g in parameter_groups(model, TrainConfig(muon=MuonConfig(enabled=True)))}
    assert groups["muon.backbone"].lr == pytest.approx(groups["muon"].lr * 0.1)
    names = [name for group in groups.values() if group.orthogonal for name in group.parameters]
    assert "encoder.layers.0.self_attention.query.weight" in names
    assert not [n for n in names if n.startswith(("heads.", "queries.", "neck.position."))]


def test_fp16_steps_can_be_skipped() -> None:
    groups = parameter_groups(built("detr-r18").model, TrainConfig())
    assert make_optimizer(groups, TrainConfig()).defaults["fused"]
    assert not make_optimizer(groups, TrainConfig(precision="fp16")).defaults["fused"]


def test_settings_are_checked_before_anything_is_written() -> None:
    with pytest.raises(UserError, match=r"this family takes no denoising queries"):
        check_training_support(built("detr-r18").model, TrainConfig(denoising=DenoisingConfig(groups=1)))
    with pytest.raises(UserError, match=r"fits no trainable parameter"):
        check_training_support(built("detr-r18").model, TrainConfig(lr_factors={"*.nowhere.*": 0.1}))
