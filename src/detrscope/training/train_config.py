"""Training settings: optimiser, schedule, matching cost, loss, recording, devices."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from detrscope.config import config_section, require_config, setting, settings

LoggerName = Literal["tensorboard", "wandb", "mlflow"]


@settings
class CostConfig:
    """Weights of the matching cost (DETR, equation 2)."""

    classes: float = setting(1.0, "weight of minus the class probability")
    box: float = setting(5.0, "weight of the L1 distance of boxes")
    giou: float = setting(2.0, "weight of minus the generalised IoU")
    mask: float = setting(
        0.0, "weight of the cross-entropy of masks at points, of dot-product mask heads", ge=0
    )
    dice: float = setting(0.0, "weight of minus their Dice coefficient, of dot-product mask heads", ge=0)


@settings
class LossConfig:
    """Weights of the loss terms (DETR, appendix A.4)."""

    classes: float = setting(1.0, "weight of the classification term")
    box: float = setting(5.0, "weight of the L1 distance of boxes")
    giou: float = setting(2.0, "weight of the generalised IoU term")
    mask: float = setting(
        1.0,
        "weight of the loss of masks, of models with a mask head: focal, or cross-entropy at points (dot-product)",
    )
    dice: float = setting(1.0, "weight of the Dice loss of masks, of models with a mask head")
    no_object: float = setting(0.1, "weight of queries without an object in the cross-entropy")
    sigmoid: Literal["focal", "matchability", "varifocal", "mal", "iou-aware"] = setting(
        "focal",
        "classification target of a matched query, for models without a `no object` class: 1 (focal), its IoU"
        " with the box (matchability; varifocal: weighted by it, too), a power of the IoU (mal, of DEIM), or the IoU"
        " and its own score (iou-aware, of LW-DETR)",
    )
    mal_gamma: float = setting(1.5, "mal: exponent of the IoU and of other queries' scores", gt=0)
    fgl: float = setting(
        0.0,
        "weight of fine-grained localisation, for models that predict edges as distributions (D-FINE)",
        ge=0,
    )
    ddf: float = setting(0.0, "weight of the distillation of their distributions from the last layer", ge=0)
    union: bool = setting(
        False, "terms of boxes take the pairs of query and box of all layers together, as D-FINE's do"
    )


@settings
class ScheduleConfig:
    """Learning-rate schedule."""

    kind: Literal["step", "cosine", "onecycle", "constant"] = setting("step", "shape of the schedule")
    drop_epochs: tuple[int, ...] = setting(
        (200,), "step: epochs after which the rates are multiplied by drop_factor"
    )
    drop_factor: float = setting(0.1, "step: factor of each drop")
    hold: float = setting(
        0.0, "cosine: fraction of the training, 0..1, at full rate before it falls", ge=0, lt=1
    )
    final_factor: float = setting(0.0, "cosine: fraction of the rates that is left at the end")
    warmup_steps: int = setting(
        0, "steps over which the rates rise linearly; onecycle has a rise of its own", ge=0
    )


@settings
class DenoisingConfig:
    """Noised ground-truth boxes as extra queries (DN-DETR); for families that support them."""

    groups: int = setting(0, "copies of every box; 0: no denoising, or as many as `queries` holds", ge=0)
    queries: int = setting(
        0, "number of denoising queries, of which come as many groups as fit, at least one", ge=0, le=100_000
    )
    box: float = setting(0.4, "largest shift of centre and size, as a fraction of the size", ge=0)
    label: float = setting(0.2, "probability that a copy gets a random class")
    negatives: bool = setting(
        False,
        "contrastive denoising (DINO): corners move by up to half of `box` times the size, and a second copy of"
        " each, moved by up to twice as much, must be rejected",
    )

    def __post_init__(self) -> None:
        require_config(not (self.groups and self.queries), "queries", self.queries, "0 where groups is given")

    @property
    def enabled(self) -> bool:
        """Whether there are denoising queries."""
        return bool(self.groups or self.queries)


@settings
class MuonConfig:
    """Muon for hidden matrices and convolutions; heads, queries, norms and biases stay with AdamW."""

    enabled: bool = setting(False, "whether to optimise hidden matrices with Muon")
    lr: float = setting(4e-3, "learning rate of Muon's parameters", ge=0)
    momentum: float = setting(0.95, "momentum of the gradient's running average", ge=0, lt=1)
    iterations: int = setting(4, "Newton-Schulz iterations", ge=1, le=50)
    weight_decay: float = setting(
        0.05,
        "decoupled weight decay of Muon's parameters; without it attention scores grow without bound",
        ge=0,
    )


@settings
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
        ge=0,
    )
    every: int | None = setting(None, "steps between snapshots; null: at the end of each epoch", ge=1)
    queries: int = setting(
        32, "queries stored for each image: those matched with its objects, then the best-scoring", ge=1
    )
    features: int = setting(
        0,
        "channels stored of every convolution of the backbone, the strongest of the first snapshot, beside the root"
        " mean square of all; 0: no features",
        ge=0,
    )
    traces: int = setting(
        0,
        "also store the full trace, every layer and head, at the first snapshot, every this many snapshots and the"
        " last, for `detrscope see`; 0: none",
        ge=0,
    )

    def __post_init__(self) -> None:
        expected = "val; it names a split of the dataset in images, which is not given"
        require_config(self.images is not None or self.split == "val", "split", self.split, expected)


@settings
class EmaConfig:
    """A running average of the weights, which is evaluated and saved in their place."""

    enabled: bool = setting(False, "whether to maintain a running average of the weights")
    decay: float = setting(0.9997, "fraction of the average that is kept at each step", ge=0, lt=1)
    warmup_steps: int = setting(
        1000, "steps over which the decay rises, so that early weights are discarded quickly"
    )


@settings
class TrainConfig:
    """Optimisation, loss, schedule, devices and checkpoints of a run."""

    epochs: int = setting(300, "passes over the training images", ge=1)
    max_steps: int | None = setting(None, "stop after this many optimiser steps, for quick runs", ge=1)
    lr: float = setting(1e-4, "learning rate", ge=0)
    lr_backbone: float = setting(1e-5, "learning rate of the backbone; 0 freezes it", ge=0)
    lr_factors: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "parameter name pattern -> factor on lr, such as {'*.sampling_offsets.*': 0.1}"},
    )
    train_only: tuple[str, ...] = setting(
        (),
        "patterns of the names of the parameters that learn, such as mask_head.*; none: all that are not frozen",
    )
    weight_decay: float = setting(1e-4, "decoupled weight decay (AdamW)", ge=0)
    decay_1d: bool = setting(True, "decay biases and norms too, as the paper's code does")
    clip: float = setting(0.1, "largest norm of the gradient; 0 does not clip", ge=0)
    schedule: ScheduleConfig = config_section(ScheduleConfig)
    cost: CostConfig = config_section(CostConfig)
    loss: LossConfig = config_section(LossConfig)
    denoising: DenoisingConfig = config_section(DenoisingConfig)
    muon: MuonConfig = config_section(MuonConfig)
    recording: RecordingConfig = config_section(RecordingConfig)
    ema: EmaConfig = config_section(EmaConfig)
    accumulate: int = setting(
        1, "micro-batches that one optimiser step is divided into, to save memory", ge=1
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "precision of products (autocast); auto: bf16 where the device computes it natively, else fp32",
    )
    channels_last: bool = setting(
        True, "lay images out with channels last: faster convolutions, above all with bf16"
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = setting(
        "auto", "kind of device; auto: a GPU where there is one"
    )
    devices: int = setting(1, "processes that train together on each node, one per device", ge=1)
    nodes: int = setting(1, "machines that train together", ge=1)
    strategy: Literal["ddp", "fsdp"] = setting(
        "ddp",
        "several processes: each has the whole model (ddp), or a part of its weights, gradients and optimiser state,"
        " for a model that fits no device (fsdp)",
    )
    timeout: float = setting(
        600.0,
        "several processes: seconds after which one that does not answer is taken for lost",
        gt=0,
        le=604_800,  # a week; sockets cannot wait for any number of seconds
    )
    sync_norms: bool = setting(
        True,
        "several processes: batch norms that learn gather the statistics of all of them, as one process would",
    )
    threads: int | None = setting(
        None, "compute threads per process; null: at most the cores available to the process", ge=1
    )
    seed: int = setting(0, "random seed of weights, dropout, order and augmentation", ge=0, lt=2**32)
    evaluate_every: int = setting(1, "epochs between evaluations; the last epoch is always evaluated", ge=1)
    patience: int = setting(
        0, "evaluations without a better AP after which training ends early; 0: it never does", ge=0
    )
    checkpoint_every: int | None = setting(
        None, "steps between checkpoints; null: at the end of each epoch only", ge=1
    )
    loggers: tuple[LoggerName, ...] = setting(
        (),
        "experiment trackers that get metrics, settings and images of attention: tensorboard, wandb, mlflow",
    )

    def __post_init__(self) -> None:
        unique = len(set(self.loggers)) == len(self.loggers)
        require_config(unique, "loggers", list(self.loggers), "each at most once")

    @property
    def processes(self) -> int:
        """Processes that train together, on all nodes."""
        return self.nodes * self.devices
