"""Every setting of a training run: preset <- YAML file <- `--a.b=c`, checked, with one default each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detrscope import families
from detrscope.config import Tree, build, load_preset, load_yaml, merge, section, setting, to_tree
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.transforms import AugmentConfig
from detrscope.training.from_scratch import learning_backbone, warn_of_frozen_noise

SHORTEST_SIDE = 16  # pixels: half of the coarsest stride, below which a map has no token
LARGEST_SIDE = 32_768
MOST_WORKERS = 512  # processes; each takes some hundred megabytes


@dataclass(frozen=True)
class ModelChoice:
    """Which model is trained."""

    variant: str = setting("detr-r50", "a variant name; see `detrscope models`")
    overrides: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "settings of the family laid over the variant, such as --model.overrides.queries=10"
        },
    )
    backbone_weights: str = setting("imagenet", "what the backbone starts from: imagenet, none, or a file")
    start_from: str | None = setting(
        None,
        "what --from says: the model to fine-tune (variant, checkpoint, run folder, Hugging Face id), which"
        " brings its own variant, overrides and backbone",
    )


@dataclass(frozen=True)
class DataConfig:
    """Where images come from, and in what size and number they are fed."""

    source: str = setting("", "a dataset: coco:DIR, yolo:DIR, voc:DIR, a folder, or an annotation .json")
    val_source: str | None = setting(None, "another dataset to evaluate on; null: the same as source")
    train_split: str = setting("train", "split to learn from")
    val_split: str | None = setting("val", "split to evaluate on; null: no evaluation")
    batch_size: int = setting(
        16, "images per optimiser step, over all devices and accumulated passes together"
    )
    workers: int = setting(2, "processes that load images, per device; 0 loads in the training process")
    cache: bool = setting(False, "keep decoded images in memory")
    tolerant: bool = setting(False, "skip images that cannot be read, and count them, rather than stop")
    short_side: int = setting(800, "images are resized so that the short side has this many pixels ...")
    long_side: int = setting(1333, "... unless the long side would have more than this many")

    def __post_init__(self) -> None:
        _at_least(1, data__batch_size=self.batch_size)
        _at_least(SHORTEST_SIDE, data__short_side=self.short_side)
        _at_least(0, data__workers=self.workers)
        _at_most(MOST_WORKERS, data__workers=self.workers)
        _at_most(LARGEST_SIDE, data__long_side=self.long_side)
        if self.long_side < self.short_side:
            raise UserError(
                f"data.long_side is {self.long_side}: expected at least data.short_side ({self.short_side})"
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """What the model will see at evaluation and ever after."""
        return Preprocessing(self.short_side, self.long_side)


@dataclass(frozen=True)
class CostConfig:
    """Weights of the matching cost (DETR, equation 2)."""

    classes: float = setting(1.0, "weight of minus the class probability")
    box: float = setting(5.0, "weight of the L1 distance of boxes")
    giou: float = setting(2.0, "weight of minus the generalised IoU")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms (DETR, appendix A.4)."""

    classes: float = setting(1.0, "weight of the classification term")
    box: float = setting(5.0, "weight of the L1 distance of boxes")
    giou: float = setting(2.0, "weight of the generalised IoU term")
    no_object: float = setting(0.1, "weight of queries without an object in the cross-entropy")
    sigmoid: Literal["focal", "overlap"] = setting(
        "focal", "for models without `no object`: what a match's score is driven to, 1 (focal) or its overlap"
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """How learning rates change, step by step."""

    kind: Literal["step", "cosine", "onecycle", "constant"] = setting("step", "shape of the schedule")
    drop_epochs: tuple[int, ...] = setting(
        (200,), "step: epochs after which the rates are multiplied by drop_factor"
    )
    drop_factor: float = setting(0.1, "step: what a drop multiplies by")
    hold: float = setting(0.0, "cosine: part of the training, 0..1, at full rate before it falls")
    final_factor: float = setting(0.0, "cosine: what is left of the rates at the end")
    warmup_steps: int = setting(0, "steps over which the rates rise linearly; onecycle has its own rise")

    def __post_init__(self) -> None:
        _at_least(0, train__schedule__warmup_steps=self.warmup_steps)
        if not 0 <= self.hold < 1:
            raise UserError(f"train.schedule.hold is {self.hold}: expected 0 or more and less than 1")


@dataclass(frozen=True)
class DenoisingConfig:
    """Disturbed true boxes as extra queries (DN-DETR); for families that can take them."""

    groups: int = setting(0, "copies of every box; 0 for none")
    box: float = setting(0.4, "how far centre and size are moved at most, in parts of the size")
    label: float = setting(0.2, "chance that a copy is given a random class")

    def __post_init__(self) -> None:
        _at_least(0, train__denoising__groups=self.groups, train__denoising__box=self.box)


@dataclass(frozen=True)
class MuonConfig:
    """Muon for hidden matrices and convolutions; heads, queries, norms and biases stay with AdamW."""

    enabled: bool = setting(False, "use it")
    lr: float = setting(4e-3, "its learning rate")
    momentum: float = setting(0.95, "of the running average of the gradient")
    iterations: int = setting(4, "of the Newton-Schulz iteration")
    weight_decay: float = setting(
        0.05, "of what it moves, decoupled; without it scores of attention grow and grow"
    )

    def __post_init__(self) -> None:
        _at_least(0, train__muon__lr=self.lr, train__muon__weight_decay=self.weight_decay)
        _at_least(1, train__muon__iterations=self.iterations)
        _at_most(50, train__muon__iterations=self.iterations)
        if not 0 <= self.momentum < 1:
            raise UserError(f"train.muon.momentum is {self.momentum}: expected 0 or more and less than 1")


@dataclass(frozen=True)
class RecordingConfig:
    """Probe images, and how often snapshots of them are taken while a model trains."""

    images: str | None = setting(
        None,
        "probe images that are not trained on: a folder of images, or a dataset such as coco:DIR or drawn-dogs:"
        " (also --probe-images); null: those of data.val_split",
    )
    split: str = setting("val", "split of the dataset, where train.recording.images is a dataset")
    count: int = setting(
        0,
        "number of probe images, those with objects first; 0: none, or all of train.recording.images where it is"
        " given",
    )
    every: int | None = setting(None, "steps between snapshots; null: at the end of each epoch")
    queries: int = setting(
        32, "queries stored for each image: those matched with its objects, then the best-scoring"
    )
    features: int = setting(
        0,
        "channels stored of every convolution of the backbone, the strongest of the first snapshot, beside the root"
        " mean square of all; 0: no features",
    )
    traces: int = setting(
        0,
        "also store the full trace, every layer and head, at the first snapshot, every this many snapshots and the"
        " last, for `detrscope see`; 0: none",
    )

    def __post_init__(self) -> None:
        _at_least(0, train__recording__count=self.count, train__recording__features=self.features)
        _at_least(0, train__recording__traces=self.traces)
        _at_least(1, train__recording__every=self.every, train__recording__queries=self.queries)
        if self.images is None and self.split != RecordingConfig.split:
            raise UserError(
                "train.recording.split is for a dataset in train.recording.images, and there is none"
            )


@dataclass(frozen=True)
class EmaConfig:
    """A running average of the weights, which is evaluated and saved in their place."""

    enabled: bool = setting(False, "keep the average")
    decay: float = setting(0.9997, "how much of the average is kept at each step")
    warmup_steps: int = setting(
        1000, "steps over which the decay rises, so that the first weights are forgotten"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(f"train.ema.decay is {self.decay}: expected 0 or more and less than 1")


@dataclass(frozen=True)
class TrainConfig:
    """How the model learns."""

    epochs: int = setting(300, "passes over the training images")
    max_steps: int | None = setting(None, "stop after this many optimiser steps, for quick runs")
    lr: float = setting(1e-4, "learning rate")
    lr_backbone: float = setting(1e-5, "learning rate of the backbone; 0 freezes it")
    lr_factors: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "parameter name pattern -> factor on lr, such as {'*.sampling_offsets.*': 0.1}"},
    )
    weight_decay: float = setting(1e-4, "decoupled weight decay (AdamW)")
    decay_1d: bool = setting(True, "decay biases and norms too, as the paper's code does")
    clip: float = setting(0.1, "largest norm of the gradient; 0 does not clip")
    schedule: ScheduleConfig = section(ScheduleConfig)
    cost: CostConfig = section(CostConfig)
    loss: LossConfig = section(LossConfig)
    denoising: DenoisingConfig = section(DenoisingConfig)
    muon: MuonConfig = section(MuonConfig)
    recording: RecordingConfig = section(RecordingConfig)
    ema: EmaConfig = section(EmaConfig)
    accumulate: int = setting(1, "passes that one optimiser step is divided into, to save memory")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "what products are computed in (autocast); auto: bf16 where the device computes it natively, else fp32",
    )
    channels_last: bool = setting(
        True, "lay images out with channels last: faster convolutions, above all with bf16"
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = setting(
        "auto", "auto: a GPU where there is one"
    )
    devices: int = setting(1, "processes that train together, one per device")
    threads: int | None = setting(
        None, "threads that compute, per process; null: no more than the cores that are free to it"
    )
    seed: int = setting(0, "of weights, dropout, order and augmentation")
    evaluate_every: int = setting(1, "epochs between evaluations; the last epoch is always evaluated")
    checkpoint_every: int | None = setting(
        None, "steps between checkpoints; null: at the end of each epoch only"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"train.seed is {self.seed}: expected 0 to {2**32 - 1}")
        _at_least(
            1, train__epochs=self.epochs, train__accumulate=self.accumulate, train__devices=self.devices
        )
        _at_least(1, train__evaluate_every=self.evaluate_every)
        _at_least(1, train__max_steps=self.max_steps, train__checkpoint_every=self.checkpoint_every)
        _at_least(
            0, train__lr=self.lr, train__lr_backbone=self.lr_backbone, train__weight_decay=self.weight_decay
        )
        _at_least(0, train__clip=self.clip)
        _at_least(1, train__threads=self.threads)


@dataclass(frozen=True)
class RunConfig:
    """A training run as data; `config.yaml` in a run folder holds one, resolved."""

    source: str = setting("", "where the recipe comes from: a paper's section, a URL")
    model: ModelChoice = section(ModelChoice)
    data: DataConfig = section(DataConfig)
    augment: AugmentConfig = section(AugmentConfig)
    train: TrainConfig = section(TrainConfig)

    def __post_init__(self) -> None:
        parts = self.train.devices * self.train.accumulate
        if self.data.batch_size % parts:
            raise UserError(
                f"data.batch_size is {self.data.batch_size}: expected a multiple of train.devices x"
                f" train.accumulate = {parts}, so that every pass has the same number of images"
            )

    @property
    def images_per_pass(self) -> int:
        """Images that one device sees in one forward pass."""
        return self.data.batch_size // (self.train.devices * self.train.accumulate)


def resolve(
    preset: str | None = None,
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    base: RunConfig | None = None,
) -> RunConfig:
    """The config of a run: `base`, then a preset, then a YAML file, then overrides, later ones winning.

    Args:
        preset: the name of a shipped preset.
        file: a YAML file, such as the config.yaml of another run.
        overrides: nested settings; keys may be dotted (`{"train.epochs": 10}`).
        base: a config to start from instead of the defaults.

    Raises:
        UserError: an unknown preset, key or variant (the nearest one is named), or a value that is not valid.
    """
    tree: Tree = to_tree(base) if base else {}
    config = base or RunConfig()
    for source, layer in (
        (f"preset '{preset}'", load_preset(preset) if preset is not None else None),
        (str(file), load_yaml(file) if file is not None else None),
        ("settings given", undotted(overrides) if overrides else None),
    ):
        if layer is not None:  # one by one, so that an error names where it was made
            tree = merge(tree, learning_backbone(layer, tree, to_tree(RunConfig())))
            config = build(RunConfig, tree, source=source)
            families.resolve(
                config.model.variant, config.model.overrides, source=f"{source}: model.overrides"
            )
    warn_of_frozen_noise(config)
    return config


def undotted(tree: Mapping[str, Any]) -> Tree:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`; keys inside of values, such as patterns, stay as they are."""
    result: Tree = {}
    for key, value in tree.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as dotted keys and plain values."""
    tree = config if isinstance(config, Mapping) else to_tree(config)
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _at_most(most: int, **settings: float) -> None:
    """Refuse a number that is too large; named as by `_at_least`."""
    for name, value in settings.items():
        if not value <= most:
            raise UserError(f"{name.replace('__', '.')} is {value}: expected {most} or less")


def _at_least(least: int, **settings: float | None) -> None:
    """Refuse a number that is too small; the setting is named by its dotted key, `__` for a dot."""
    for name, value in settings.items():
        if value is not None and not value >= least:
            raise UserError(f"{name.replace('__', '.')} is {value}: expected {least} or more")
