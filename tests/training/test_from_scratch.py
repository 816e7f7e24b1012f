"""Without pretrained weights nothing random is frozen or held back, in whatever way it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detrscope import families
from detrscope.checkpoints.load import load_random_model
from detrscope.config import config_preset_names, load_preset_config, to_yaml
from detrscope.core.classes import ClassTable
from detrscope.training.config import RunConfig, resolve_training_config
from detrscope.training.optimizer import parameter_groups

NONE = {"model.backbone_weights": "none"}


def backbone_of(config: RunConfig) -> Any:
    return families.resolve_variant(config.model.variant, config.model.overrides).backbone


def assert_all_of_it_learns(config: RunConfig) -> None:
    small = {**config.model.overrides, "width": 32}
    model = load_random_model(config.model.variant, small, ClassTable.of_names(["a"])).model
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert not frozen
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())
    rates = {group.name: group.lr for group in parameter_groups(model, config.train)}
    assert rates["backbone"] == rates["base"] == config.train.lr


@pytest.mark.parametrize(
    "preset", ["dogs-reduced", "detr-r50-coco", "deformable-detr-r50-coco", "finetune", None]
)
def test_no_pretrained_weights_make_the_backbone_trainable(
    preset: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="detrscope"):
        config = resolve_training_config(preset, overrides=NONE)
    assert_all_of_it_learns(config)
    assert "all its stages learn" in caplog.text and "freezes or slows" not in caplog.text
    caplog.clear()
    assert resolve_training_config(base=config) == config, "resuming changes nothing"
    assert not caplog.text
    untouched = resolve_training_config(preset)
    assert backbone_of(untouched).norm == "frozen" and untouched.train.lr_backbone < untouched.train.lr


def test_no_pretrained_weights_asked_for_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {variant: detr-r18, backbone_weights: none}\n")
    config = resolve_training_config("detr-r50-coco", tmp_path / "mine.yaml")
    assert_all_of_it_learns(config)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert resolve_training_config(file=tmp_path / "again.yaml") == config


def test_no_pretrained_weights_and_another_variant(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {variant: sprint-dense-n, backbone_weights: none}\n")
    assert_all_of_it_learns(
        resolve_training_config(file=tmp_path / "mine.yaml", overrides={"model.variant": "detr-r18"})
    )


def test_backbone_rate_follows_the_given_rate() -> None:
    assert (
        resolve_training_config("dogs-reduced", overrides={**NONE, "train.lr": 3e-4}).train.lr_backbone
        == 3e-4
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"model.overrides.backbone.norm": "frozen"}, "backbone.norm"),
        ({"model.overrides.backbone.trainable_stages": 3}, "trainable_stages"),
        ({"train.lr_backbone": 1e-6}, "train.lr_backbone"),
        ({"train.lr_backbone": 0}, "train.lr_backbone"),
    ],
)
def test_explicit_freezing_is_kept_with_a_warning(
    given: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = resolve_training_config("dogs-reduced", overrides={**NONE, **given})
    backbone = backbone_of(config)
    have = {
        "model.overrides.backbone.norm": backbone.norm,
        "model.overrides.backbone.trainable_stages": backbone.trainable_stages,
        "train.lr_backbone": config.train.lr_backbone,
    }
    assert have | given == have
    assert f"{named} freezes or slows random weights" in caplog.text


@pytest.mark.parametrize("preset", config_preset_names())
def test_no_preset_freezes_random_weights_and_all_cite_a_source(
    preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = resolve_training_config(preset)
    # Recipes for pretrained ViTs, which --from brings; without it they warn.
    assert ("freezes or slows" in caplog.text) == (
        preset in ("lwdetr-t-coco", "rfdetr-nano-coco", "rfdetr-seg-nano-coco")
    )
    source = load_preset_config(preset)["source"]
    assert config.source == source and ("arXiv:" in source or "Ours" in source)
    assert not any(part in source for part in ("docs/", "src/", "mission"))


def test_photos_preset_has_no_vertical_flip() -> None:
    config = resolve_training_config("photos")
    assert config.augment.vertical_flip == 0 and config.model.variant.startswith("sprint-deformable")
    assert families.family_query_count(config.model.variant, config.model.overrides) >= 60


def test_sprint_lite_from_scratch_learns_its_depthwise_kernels_too(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"model.variant": "sprint-lite-0", "train.lr_backbone": 1e-5}
    pretrained = resolve_training_config(overrides=settings)
    assert backbone_of(pretrained).depthwise == backbone_of(pretrained).norm == "frozen"
    assert_all_of_it_learns(
        resolve_training_config(overrides={**settings, **NONE, "train.lr_backbone": 1e-4})
    )
    caplog.clear()
    frozen = {"model.overrides.backbone.depthwise": "frozen"}
    resolve_training_config(overrides={**settings, **NONE, **frozen})
    assert "model.overrides.backbone.depthwise and train.lr_backbone freezes or slows" in caplog.text
