"""Every setting of a training run: preset <- YAML file <- `--a.b=c`, checked, with one default each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from detrscope import families
from detrscope.config import (
    Tree,
    build,
    config_section,
    config_to_tree,
    load_preset_config,
    load_yaml_config,
    merge_configs,
    require_config,
    setting,
    settings,
)
from detrscope.console import log
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.transforms import AugmentConfig
from detrscope.families.masks import MaskHeadName
from detrscope.training.from_scratch import train_backbone_from_scratch, warn_of_frozen_random_weights
from detrscope.training.train_config import TrainConfig

MIN_SHORT_SIDE = 16  # pixels: half of the coarsest stride, below which a map has no token
MAX_SIDE = 32_768
MAX_WORKERS = 512  # processes; each takes some hundred megabytes


@settings
class ModelChoice:
    """Model to train and its initial weights."""

    variant: str = setting("detr-r50", "a variant name; see `detrscope models`")
    overrides: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "settings of the family laid over the variant, such as --model.overrides.queries=10"
        },
    )
    backbone_weights: str = setting(
        "imagenet", "pretrained weights of the backbone: imagenet, none, or a file"
    )
    mask_head: MaskHeadName = setting(
        "none", "mask head to add to the variant, or to the model given with --from; none: as it is"
    )
    start_from: str | None = setting(
        None,
        "the model to fine-tune, as given with --from (variant, checkpoint, run folder, Hugging Face id), which"
        " brings its own variant, overrides and backbone",
    )


@settings
class DataConfig:
    """Datasets, splits, image size and batch size."""

    source: str = setting("", "a dataset: coco:DIR, yolo:DIR, voc:DIR or another format, a folder, or a file")
    val_source: str | None = setting(None, "another dataset to evaluate on; null: the same as source")
    train_split: str = setting("train", "split to learn from")
    val_split: str | None = setting("val", "split to evaluate on; null: no evaluation")
    batch_size: int = setting(
        16, "images per optimiser step, over all devices and accumulated micro-batches together", ge=1
    )
    workers: int = setting(
        2, "processes that load images, per device; 0 loads in the training process", ge=0, le=MAX_WORKERS
    )
    cache: bool = setting(False, "keep decoded images in memory")
    tolerant: bool = setting(False, "skip images that cannot be read, and count them, rather than stop")
    short_side: int = setting(
        800, "images are resized so that the short side has this many pixels ...", ge=MIN_SHORT_SIDE
    )
    long_side: int = setting(1333, "... unless the long side would have more than this many", le=MAX_SIDE)
    square: int | None = setting(
        None,
        "images are stretched to this many pixels on both sides instead, as RT-DETR's; null: they are not",
        ge=MIN_SHORT_SIDE,
        le=MAX_SIDE,
    )

    def __post_init__(self) -> None:
        least = f"at least short_side ({self.short_side})"
        require_config(self.long_side >= self.short_side, "long_side", self.long_side, least)

    @property
    def preprocessing(self) -> Preprocessing:
        """The resize of evaluation, which the checkpoint records."""
        if self.square is not None:
            return Preprocessing(fit="exact", box=(self.square, self.square))
        return Preprocessing(self.short_side, self.long_side)


@settings
class RunConfig:
    """A training run as data; `config.yaml` in a run folder holds one, resolved."""

    source: str = setting("", "where the recipe comes from: a paper's section, a URL")
    model: ModelChoice = config_section(ModelChoice)
    data: DataConfig = config_section(DataConfig)
    augment: AugmentConfig = config_section(AugmentConfig)
    train: TrainConfig = config_section(TrainConfig)

    def __post_init__(self) -> None:
        square = self.augment.mixup == 0 or self.data.square is not None
        require_config(square, "augment.mixup", self.augment.mixup, "0, or images of one size (data.square)")
        require_config(
            self.data.batch_size % self._micro_batches == 0,
            "data.batch_size",
            self.data.batch_size,
            f"a multiple of train.nodes x train.devices x train.accumulate = {self._micro_batches}, so that every"
            " micro-batch has the same number of images",
        )

    @property
    def images_per_micro_batch(self) -> int:
        """Images that one device takes in one forward pass."""
        return self.data.batch_size // self._micro_batches

    @property
    def _micro_batches(self) -> int:
        """Micro-batches of one optimiser step, over all devices."""
        return self.train.processes * self.train.accumulate


def resolve_training_config(
    preset: str | None = None,
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    base: RunConfig | None = None,
) -> RunConfig:
    """Resolve the settings of a run: `base`, then a preset, then a YAML file, then overrides; later ones win.

    Args:
        preset: the name of a shipped preset.
        file: a YAML file, such as the config.yaml of another run.
        overrides: nested settings; keys may be dotted (`{"train.epochs": 10}`).
        base: a config to start from instead of the defaults.

    Raises:
        UserError: a preset, key or variant is unknown (the message names the nearest one), or a value is not valid.
    """
    tree: Tree = config_to_tree(base) if base else {}
    config = base or RunConfig()
    for source, layer in (
        (f"preset '{preset}'", load_preset_config(preset) if preset is not None else None),
        (str(file), load_yaml_config(file) if file is not None else None),
        ("settings given", nest_run_config(overrides) if overrides else None),
    ):
        if layer is None:
            continue
        below, tree = tree, merge_configs(tree, layer)
        config = build(RunConfig, tree, source=source)  # layer by layer, so that an error names its source
        families.resolve_variant(
            config.model.variant, config.model.overrides, source=f"{source}: model.overrides"
        )
        completed = merge_configs(below, train_backbone_from_scratch(config, layer), layer)
        if completed != tree:
            tree, config = completed, build(RunConfig, completed, source=source)
            log.info(
                "no pretrained backbone (model.backbone_weights none): all its stages learn, its norms are trainable,"
                " at the full rate; explicit settings take precedence"
            )
    warn_of_frozen_random_weights(config)
    return config


def nest_run_config(tree: Mapping[str, Any]) -> Tree:
    """Nest dotted keys: `{"a.b": 1}` as `{"a": {"b": 1}}`; keys within values, such as patterns, stay as they are."""
    result: Tree = {}
    for key, value in tree.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge_configs(result, value)
    return result


def flatten_run_config(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten settings to dotted keys and plain values."""
    tree = config if isinstance(config, Mapping) else config_to_tree(config)
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            result |= flatten_run_config(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
