"""Settings of a run: presets, files, overrides, ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from detrscope import families
from detrscope.config import config_preset_names, describe_config, to_yaml
from detrscope.core.errors import UserError
from detrscope.training.config import (
    DataConfig,
    RunConfig,
    flatten_run_config,
    nest_run_config,
    resolve_training_config,
)
from detrscope.training.optimizer import parameter_groups
from detrscope.training.run_folder import RunFolder
from detrscope.training.train_config import EmaConfig, TrainConfig

PRESETS = [
    "bccd-deformable-detr",
    "bccd-detr",
    "deformable-detr-r50-coco",
    "deformable-detr-r50-refine-coco",
    "deformable-detr-r50-single-scale-coco",
    "deformable-detr-r50-single-scale-dc5-coco",
    "deformable-detr-r50-two-stage-coco",
    "detr-r101-coco",
    "detr-r101-dc5-coco",
    "detr-r50-coco",
    "detr-r50-coco-500",
    "detr-r50-dc5-coco",
    "dogs-reduced",
    "finetune",
    "deimv2-atto-coco",
    "dfine-n-coco",
    "photos-pretrained",
    "rtdetr-r18-coco",
    "rtdetr-r50-coco",
    "rtdetrv2-r18-coco",
    "lwdetr-t-coco",
    "rfdetr-nano-coco",
    "rfdetr-seg-nano-coco",
]


def test_promised_presets_exist() -> None:
    assert set(PRESETS) <= set(config_preset_names())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_names_its_source_and_builds(name: str) -> None:
    config = resolve_training_config(name)
    assert len(config.source) > 40
    model = families.build(config.model.variant, config.model.overrides, classes=3)
    least = 4e5 if name.startswith("deimv2-atto") else 1e6
    assert sum(p.numel() for p in model.parameters()) > least


def test_published_detr_recipe() -> None:
    config = resolve_training_config("detr-r50-coco")
    train = config.train
    assert (train.lr, train.lr_backbone, train.weight_decay, train.clip) == (1e-4, 1e-5, 1e-4, 0.1)
    assert (train.epochs, train.schedule.kind, train.schedule.drop_epochs) == (300, "step", (200,))
    assert (train.cost.classes, train.cost.box, train.cost.giou) == (1, 5, 2)
    assert (train.loss.classes, train.loss.box, train.loss.giou, train.loss.no_object) == (1, 5, 2, 0.1)
    assert config.data.batch_size == 16 and config.data.preprocessing.short_side == 800
    model = families.resolve_variant(config.model.variant, config.model.overrides)
    assert (model.encoder.dropout, model.decoder.dropout, model.queries) == (0.1, 0.1, 100)
    longer = resolve_training_config("detr-r50-coco-500").train
    assert (longer.epochs, longer.schedule.drop_epochs, longer.schedule.drop_factor) == (500, (400,), 0.1)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("rtdetr")])
def test_published_rt_detr_recipes(name: str) -> None:
    config = resolve_training_config(name)
    train, augment = config.train, config.augment
    second = name.startswith("rtdetrv2")
    assert (train.lr, train.lr_backbone, train.clip) == (1e-4, 1e-4 if second else 1e-5, 0.1)
    assert (train.epochs, train.schedule.kind) == (120 if second else 72, "constant")
    assert (train.cost.classes, train.cost.box, train.cost.giou) == (2, 5, 2)
    assert (train.loss.classes, train.loss.sigmoid) == (1, "varifocal")
    assert (train.denoising.queries, train.denoising.box, train.denoising.label) == (100, 1.0, 0.5)
    assert train.denoising.negatives and train.ema.decay == 0.9999
    assert (augment.photometric, augment.zoom_out, augment.iou_crop) == (0.5, 0.5, 0.8)
    assert config.data.preprocessing.box == (640, 640) and config.data.batch_size == 16
    assert augment.stop_epoch == (118 if second else None)


def test_published_d_fine_recipe() -> None:
    config = resolve_training_config("dfine-n-coco")
    train, augment = config.train, config.augment
    assert (train.lr, train.lr_backbone, train.clip, train.weight_decay) == (8e-4, 4e-4, 0.1, 1e-4)
    assert (train.epochs, train.schedule.kind, train.schedule.warmup_steps) == (160, "constant", 500)
    assert (train.cost.classes, train.cost.box, train.cost.giou) == (2, 5, 2)
    loss = train.loss
    assert (loss.classes, loss.box, loss.giou, loss.fgl, loss.ddf) == (1, 5, 2, 0.15, 1.5)
    assert loss.sigmoid == "varifocal" and loss.union
    assert (train.denoising.queries, train.denoising.box, train.denoising.label) == (100, 1.0, 0.5)
    assert (augment.photometric, augment.zoom_out, augment.iou_crop, augment.sizes) == (0.5, 0.5, 0.8, ())
    assert config.data.preprocessing.box == (640, 640) and config.data.batch_size == 128
    assert augment.stop_epoch == 149


def test_published_deimv2_recipe() -> None:
    config = resolve_training_config("deimv2-atto-coco")
    train, augment, loss = config.train, config.augment, config.train.loss
    assert (train.lr, train.lr_backbone, train.clip, train.epochs) == (2e-3, 1e-3, 0.1, 500)
    assert (train.schedule.kind, train.schedule.hold, train.schedule.final_factor) == ("cosine", 0.5, 0.5)
    assert (loss.classes, loss.box, loss.giou, loss.fgl, loss.ddf, loss.union) == (1, 5, 2, 0, 0, False)
    assert (loss.sigmoid, loss.mal_gamma) == ("mal", 1.5)
    assert (augment.mosaic, augment.mosaic_side, augment.stop_epoch) == (0.3, 160, 469)
    assert config.data.preprocessing.box == (320, 320) and config.data.batch_size == 128


DEFORMABLE = [name for name in PRESETS if name.startswith("deformable-detr-r50")]


@pytest.mark.parametrize("name", DEFORMABLE)
def test_published_deformable_recipes(name: str) -> None:
    config = resolve_training_config(name)
    train = config.train
    assert config.model.variant == name.removesuffix("-coco") and config.data.batch_size == 32
    assert (train.lr, train.lr_backbone, train.weight_decay, train.clip) == (2e-4, 2e-5, 1e-4, 0.1)
    assert (train.epochs, train.schedule.kind, train.schedule.drop_epochs) == (50, "step", (40,))
    assert (train.cost.classes, train.cost.box, train.cost.giou) == (2, 5, 2)
    assert (train.loss.classes, train.loss.box, train.loss.giou, train.loss.sigmoid) == (2, 5, 2, "focal")
    small = {stack: {"layers": 1, "feedforward": 8} for stack in ("encoder", "decoder")}
    model = families.build(config.model.variant, {"width": 32, **small}, classes=3)
    rates = {g.name: g.lr for g in parameter_groups(model, train)}
    slow = {key: rate for key, rate in rates.items() if key not in ("base", "backbone")}
    assert slow and all(rate == pytest.approx(2e-5) for rate in slow.values())
    assert ("queries.points.*" in slow) == ("two-stage" not in name) and "*.offsets.*" in slow


def test_dogs_reduced_recipe() -> None:
    config = resolve_training_config("dogs-reduced")
    model = families.resolve_variant(config.model.variant, config.model.overrides)
    assert (model.backbone.name, model.width, model.queries) == ("resnet18", 128, 10)
    for stack in (model.encoder, model.decoder):
        assert (stack.layers, stack.heads, stack.feedforward) == (3, 4, 1024)
    assert (config.data.batch_size, config.train.epochs) == (20, 150)


def test_later_settings_override_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 7, lr: 1.0e-3}\n")
    config = resolve_training_config(
        "detr-r50-coco", file, {"train.lr": 5e-4, "model": {"overrides": {"queries": 20}}}
    )
    assert (config.train.epochs, config.train.lr, config.train.clip) == (7, 5e-4, 0.1)
    assert config.model.overrides == {"queries": 20} and config.model.variant == "detr-r50"


def test_config_file_round_trip(tmp_path: Path) -> None:
    config = resolve_training_config("dogs-reduced", overrides={"train.lr_factors": {"*.bias": 0.5}})
    RunFolder(tmp_path).write_config(config)
    assert (tmp_path / "config.yaml").read_text().startswith("# detrscope ")
    assert RunFolder(tmp_path).config() == config and to_yaml(RunFolder(tmp_path).config()) == to_yaml(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.epoch": 3}, "unknown key 'train.epoch'; did you mean 'epochs'"),
        ({"trian.epochs": 3}, "unknown key 'trian'; did you mean 'train'"),
        ({"model.variant": "detr-r5"}, "model 'detr-r5' is not known; did you mean 'detr-r50'"),
        ({"model.overrides.querys": 3}, "unknown key 'querys'; did you mean 'queries'"),
        ({"train.epochs": "many"}, "train.epochs"),
        ({"train.epochs": 0}, "train.epochs is 0: expected 1 or more"),
        ({"train.precision": "fp8"}, "train.precision"),
        ({"data.batch_size": 6, "train.accumulate": 4}, "data.batch_size is 6: expected a multiple of"),
        ({"data.long_side": 100}, "data.long_side is 100: expected at least short_side (800)"),
        ({"train.ema.decay": 1.5}, "train.ema.decay is 1.5: expected less than 1"),
        ({"train.max_steps": 0}, "train.max_steps is 0: expected 1 or more"),
        ({"train.lr": float("inf")}, "train.lr is inf: expected a finite number"),
        ({"augment.crop_min": 700}, "augment.crop_min is 700: expected 1..crop_max (600)"),
        ({"augment.sizes": [0]}, "augment.sizes.0 is 0: expected more than 0"),
        ({"train": 5}, "train is 5: expected a dictionary"),
    ],
)
def test_a_wrong_setting_is_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_training_config("detr-r50-coco", overrides=overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmaConfig(decay=2), "EmaConfig: decay is 2: expected less than 1"),
        (lambda: DataConfig(long_side=100), r"DataConfig: long_side is 100: expected at least short_side"),
        (lambda: TrainConfig(lr=float("nan")), "TrainConfig: lr is nan: expected a finite number"),
        (lambda: TrainConfig(epoch=1), "TrainConfig: epoch is 1: Unexpected keyword argument"),  # type: ignore[call-arg]
        (lambda: replace(TrainConfig(), epochs=0), "TrainConfig: epochs is 0: expected 1 or more"),
    ],
)
def test_settings_made_in_python_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {batchsize: 7}\n")
    with pytest.raises(
        UserError, match=r"mine\.yaml: unknown key 'data.batchsize'; did you mean 'batch_size'"
    ):
        resolve_training_config("detr-r50-coco", file)


def test_a_misspelt_preset_is_named() -> None:
    with pytest.raises(UserError, match="preset 'detr-r50-coc' is not known; did you mean 'detr-r50-coco'"):
        resolve_training_config("detr-r50-coc")


def test_every_setting_has_a_help_text() -> None:
    settings = list(describe_config(RunConfig))
    assert {"train.schedule.kind", "train.ema.enabled", "data.batch_size", "augment.flip"} <= {
        s.key for s in settings
    }
    assert [s.key for s in settings if not s.help] == []


def test_a_micro_batch_is_a_share_of_the_batch() -> None:
    config = RunConfig(data=DataConfig(batch_size=16), train=TrainConfig(devices=2, accumulate=4))
    assert config.images_per_micro_batch == 2


def test_dotted_keys() -> None:
    assert nest_run_config({"a.b": 1, "a": {"c": {"*.d": 2}}}) == {"a": {"b": 1, "c": {"*.d": 2}}}
    assert flatten_run_config({"a": {"b": 1}, "c": {}}) == {"a.b": 1, "c": {}}
