"""One optimiser step: forward, loss and backward of its micro-batches, clipping, the update of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.queries import LabelEmbedding
from detrscope.blocks.synced_norm import sync_batch_norms
from detrscope.core.errors import UserError
from detrscope.core.types import Batch, Outputs, Target
from detrscope.training.denoising import Denoising, Noise, make_denoising, noise_seed
from detrscope.training.ema import Ema
from detrscope.training.losses.criterion import PAIRS, WEIGHTED, Losses
from detrscope.training.losses.recipe import make_criterion
from detrscope.training.nonfinite import NonFinite, bad_gradients, first_bad_module, is_finite
from detrscope.training.optimizer import (
    freeze,
    keep_frozen_norms,
    make_optimizer,
    parameter_groups,
    set_rates,
)
from detrscope.training.schedule import Schedule
from detrscope.training.sharding import gathered_weights
from detrscope.training.train_config import TrainConfig


class HasImageId(Protocol):
    """Sample of a loader, as far as the step needs it besides its tensors."""

    @property
    def image_id(self) -> int:
        """The id by which errors name the image."""
        ...


MicroBatch = tuple[Batch, Sequence[Target], Sequence[HasImageId]]
"""Images that one device takes in one forward pass, as a loader gives them."""
Values = dict[str, float]


class Opaque:
    """Outputs that Fabric passes on unchanged: it takes collections of tensors apart and refuses frozen dataclasses."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs


class FabricForward(nn.Module):
    """The model's forward with bare tensors as arguments, as Fabric's precision and DDP want them."""

    def __init__(self, model: DetectionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, padding: Tensor | None, denoising: tuple[Tensor, Tensor, Tensor] | None
    ) -> Opaque:
        """Images [B, 3, H, W], padding [B, H, W], labels, boxes and mask of denoising queries -> `Outputs`."""
        extra = None if denoising is None else label_embedding(self.model).queries(*denoising)
        return Opaque(self.model(Batch(images, padding), extra=extra))


def label_embedding(model: DetectionTransformer) -> LabelEmbedding:
    """Return the part of a model that makes denoising queries.

    Raises:
        UserError: the family supports no denoising.
    """
    embedding = model.training_support.denoising
    if embedding is None:
        raise UserError("train.denoising: this family takes no denoising queries; set both to 0")
    return embedding


def check_training_support(model: DetectionTransformer, config: TrainConfig) -> None:
    """Refuse settings that this model does not support, before anything is written.

    Raises:
        UserError: a pattern of names fits no parameter, or what the family or divided tensors do not support.
    """
    freeze(model, config)
    parameter_groups(model, config)
    if config.denoising.enabled:
        label_embedding(model)
    if (config.loss.fgl or config.loss.ddf) and not model.training_support.distributions:
        raise UserError("train.loss.fgl, ddf: this family predicts no distributions; set both to 0")
    if config.strategy == "fsdp":
        for name, is_given in (
            ("train.ema.enabled", config.ema.enabled),
            ("train.muon.enabled", config.muon.enabled),
            ("train.precision fp16", config.precision == "fp16"),
        ):
            if is_given:
                raise UserError(f"train.strategy fsdp divides every tensor; it does not go with {name}")


class TrainStep:
    """Model, optimizer, criterion and EMA.

    Attributes:
        model: the model itself, on its device.
        ema: its running average; None where it is off.
        groups: the parameter groups, with their full learning rates.
        wrapped: the model in what Fabric adds for precision and DDP.
    """

    def __init__(self, model: DetectionTransformer, config: TrainConfig, fabric: Fabric) -> None:
        last = config.channels_last and config.strategy != "fsdp"  # which divides contiguous tensors only
        self.layout = torch.channels_last if last else torch.contiguous_format
        self.model = model.to(fabric.device)
        self.model.to(memory_format=self.layout)
        freeze(model, config)
        self.ema = Ema(model, config.ema.decay, config.ema.warmup_steps) if config.ema.enabled else None
        self._undivided = copy.deepcopy(model).cpu() if config.strategy == "fsdp" else None
        syncs = fabric.world_size > 1 and config.sync_norms
        self.norms = sync_batch_norms(model) if syncs else None
        self.config = config
        self.fabric = fabric
        self.criterion = make_criterion(config, model.scoring)
        self.wrapped = fabric.setup_module(FabricForward(model))
        self.groups = parameter_groups(model, config)  # of the parameters as they are divided now
        optimizer = fabric.setup_optimizers(make_optimizer(self.groups, config))
        self.optimizer = cast(torch.optim.Optimizer, optimizer)  # as Fabric's wrapper behaves

    @property
    def eval_model(self) -> nn.Module:
        """The weights that are evaluated and saved: the average, where there is one.

        Where weights are divided, a copy that is whole: then every process must ask for it.
        """
        if self._undivided is None:
            return self.ema.model if self.ema else self.model
        gathered = copy.deepcopy(self._undivided).to(self.fabric.device)
        gathered.load_state_dict(gathered_weights(self.model))
        return gathered

    def train_mode(self) -> None:
        """Switch to training mode; norms that are frozen keep their statistics."""
        self.wrapped.train()
        keep_frozen_norms(self.model)

    def step(self, micro_batches: Sequence[MicroBatch], number: int, schedule: Schedule) -> Values:
        """Take an optimiser step.

        Args:
            micro_batches: the step's images on this device; several add up to one large batch.
            number: steps taken before.
            schedule: factor of the learning rates at each step.

        Returns:
            The loss, its terms, the monitors, and the norm of the gradient before clipping.

        Raises:
            StepFailed: a cost, loss or gradient is NaN or infinite; this step has not changed the weights.
        """
        set_rates(self.optimizer, self.groups, schedule(number))
        counts = [len(target.labels) for _, targets, _ in micro_batches for target in targets]
        losses: list[Losses] = []
        for i, micro_batch in enumerate(micro_batches, start=1):
            try:
                with self.fabric.no_backward_sync(self.wrapped, enabled=i < len(micro_batches)):
                    losses.append(self.losses(micro_batch, counts, number))
                    self.fabric.backward(losses[-1].total)
            except NonFinite as error:
                samples = micro_batch[2]
                ids = [samples[row].image_id for row in error.rows or range(len(samples))]
                raise StepFailed(error.what, ids, self._culprit([micro_batch])) from None
        limit = self.config.clip or float("inf")
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=limit, error_if_nonfinite=False
        )
        assert norm is not None
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        values = _to_host(losses, norm)  # the one wait for the device besides the matching
        if what := self._nonfinite(values):
            ids = [sample.image_id for _, _, samples in micro_batches for sample in samples]
            raise StepFailed(what, ids, self._culprit(micro_batches))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(number + 1)
        return values

    def losses(self, micro_batch: MicroBatch, counts: Sequence[int] | None = None, number: int = 0) -> Losses:
        """Run forward and loss of one micro-batch; `counts` as in `SetCriterion`, `number` as in `step`."""
        batch, targets, samples = micro_batch
        counts_here = bool(targets)  # else these images only keep this process in step with the others
        batch = batch.to(self.fabric.device)
        targets = [target.to(self.fabric.device) for target in targets or _no_targets(len(batch.images))]
        denoising = self._denoising(targets, [sample.image_id for sample in samples], number)
        noised = None if denoising is None else (denoising.labels, denoising.boxes_cxcywh, denoising.mask)
        images = batch.images.contiguous(memory_format=self.layout)
        if self.norms is not None:
            self.norms.counts = counts_here
        outputs: Outputs = self.wrapped(images, batch.padding, noised).outputs
        losses: Losses = self.criterion(outputs, targets, counts, denoising)
        return losses if counts_here else _without_weight(losses)

    def _denoising(
        self, targets: Sequence[Target], image_ids: Sequence[int], number: int
    ) -> Denoising | None:
        config = self.config.denoising
        if not config.enabled:
            return None
        classes = label_embedding(self.model).num_embeddings
        noise = Noise(config.groups, config.box, config.label, config.queries, config.negatives)
        # Of the image and the step alone: the same on any number of processes.
        seeds = [
            noise_seed(self.config.seed, number, image_id) for image_id in image_ids or [0] * len(targets)
        ]
        return make_denoising(targets, noise, classes, seeds)

    def _nonfinite(self, values: Values) -> str | None:
        """Name the loss terms or gradients that are not finite."""
        terms = [
            name for name, value in values.items() if name.startswith("loss_") and not math.isfinite(value)
        ]
        if terms:
            return f"loss term {', '.join(terms)}"
        scaled = self.config.precision == "fp16"  # its scaler skips steps whose gradient overflows
        if not math.isfinite(values["grad_norm"]) and not scaled:
            return f"gradient of {', '.join(bad_gradients(self.model)[:3]) or 'the model'}"
        return None

    def _culprit(self, micro_batches: Sequence[MicroBatch]) -> str | None:
        """Name what first gives a NaN or infinite number in a second forward of the same images."""
        # With divided weights, or norms over all processes, a forward needs them all, and they may have met with no
        # such number.
        needs_all = self._undivided is not None or self.norms is not None
        for batch, _, _ in micro_batches:
            if not is_finite(batch.images):
                return "the images"
            if needs_all:
                continue
            forward = partial(self.model, batch.to(self.fabric.device))
            if name := first_bad_module(self.model, forward):
                return f"module {name}"
        return None


class StepFailed(Exception):
    """A step came to a NaN or infinite number.

    Attributes:
        what: what is not finite, such as `loss term loss_box_2`.
        image_ids: the images it comes from.
        culprit: module or input that gave such a number first, where that is known.
    """

    def __init__(self, what: str, image_ids: Sequence[int], culprit: str | None) -> None:
        super().__init__(f"{what} is not finite")
        self.what = what
        self.image_ids = tuple(image_ids)
        self.culprit = culprit


def _no_targets(images: int) -> list[Target]:
    """Return the targets of images without boxes."""
    return [Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))] * images


def _without_weight(losses: Losses) -> Losses:
    """Return losses, all zero and with gradients of zero, of images that only keep a process in step."""
    nothing = {name: torch.full_like(value, math.nan) for name, value in losses.monitors.items()}
    return Losses(
        losses.total * 0,
        {name: value * 0 for name, value in losses.terms.items()},
        {**nothing, PAIRS: torch.zeros_like(losses.monitors[PAIRS])},
    )


def _to_host(losses: Sequence[Losses], norm: Tensor) -> Values:
    """Sum the terms and average the monitors over the micro-batches of a step, in one transfer."""
    rows = [{"loss": part.total.detach(), **part.terms} for part in losses]
    # In order of appearance: a micro-batch without boxes has no denoising terms.
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: torch.stack([row[name] for row in rows if name in row]).sum() for name in names}
    pairs = torch.stack([part.monitors[PAIRS] for part in losses])  # [micro-batches]
    for name in losses[0].monitors:
        parts = torch.stack([part.monitors[name] for part in losses])
        if name == PAIRS:
            values[name] = parts.sum()
        elif name in WEIGHTED:
            values[name] = (parts * pairs).nansum() / pairs.sum()
        else:
            values[name] = parts.nanmean()
    values["grad_norm"] = norm
    return dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True))
