"""One optimiser step: forward, loss and backward of its passes, clipping, the weights' move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from detrscope.core.types import Batch, Outputs, Target
from detrscope.training.config import TrainConfig
from detrscope.training.criterion import CrossEntropy, Losses, LossWeights, SetCriterion
from detrscope.training.ema import Ema
from detrscope.training.matcher import Matcher, SoftmaxCost
from detrscope.training.nonfinite import NonFinite, bad_gradients, first_bad_module, is_finite
from detrscope.training.optim import Schedule, freeze_backbone, make_optimizer, parameter_groups, set_rates
from detrscope.training.ranks import over_ranks


class HasImageId(Protocol):
    """What the step asks of a sample besides its tensors."""

    @property
    def image_id(self) -> int:
        """The id by which errors name the image."""
        ...


Pass = tuple[
    Batch, Sequence[Target], Sequence[HasImageId]
]  # what a loader gives: as much as one device sees at once
Values = dict[str, float]


class AsTensors(nn.Module):
    """A model that takes and gives bare tensors, as Fabric's precision and DDP want them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W], padding [B, H, W] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4]."""
        outputs = self.model(Batch(images, padding))
        return outputs.logits, outputs.boxes_cxcywh


def make_criterion(config: TrainConfig, fabric: Fabric) -> SetCriterion:
    """DETR's loss with the weights of the config, normalised over all devices."""
    cost, loss = config.cost, config.loss
    return SetCriterion(
        Matcher(SoftmaxCost(), cost.classes, cost.box, cost.giou),
        CrossEntropy(loss.no_object),
        LossWeights(loss.classes, loss.box, loss.giou),
        mean_over_ranks=lambda tensor: over_ranks(fabric, tensor, "mean"),
    )


class Learner:
    """A model together with all that changes it.

    Attributes:
        model: the model itself, on its device.
        ema: its running average, where the config asks for one.
        groups: the parameter groups, with their full learning rates.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, fabric: Fabric) -> None:
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(fabric.device).to(memory_format=self.layout)
        if config.lr_backbone == 0:
            freeze_backbone(model)
        self.ema = Ema(model, config.ema.decay, config.ema.warmup_steps) if config.ema.on else None
        self.groups = parameter_groups(model, config)
        self.config = config
        self.fabric = fabric
        self.criterion = make_criterion(config, fabric)
        self.live, self.optimizer = fabric.setup(AsTensors(model), make_optimizer(self.groups))

    @property
    def best_weights(self) -> nn.Module:
        """What is evaluated and saved: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def step(self, passes: Sequence[Pass], number: int, schedule: Schedule) -> Values:
        """Take an optimiser step.

        Args:
            passes: the step's images on this device; several passes add up to one large batch.
            number: how many steps were taken before.
            schedule: what the learning rates are multiplied by.

        Returns:
            The loss, its terms, the values that are watched, and the norm of the gradient before clipping.

        Raises:
            StepFailed: a cost, loss or gradient is NaN or infinite; this step has not changed the weights.
        """
        set_rates(self.optimizer, self.groups, schedule(number))
        counts = [len(target.labels) for _, targets, _ in passes for target in targets]
        found: list[Losses] = []
        for one in passes:
            last = len(found) + 1 == len(passes)
            try:
                with self.fabric.no_backward_sync(self.live, enabled=not last):
                    found.append(self.losses(one, counts))
                    self.fabric.backward(found[-1].total)
            except NonFinite as error:
                rows = error.rows or range(len(one[2]))
                raise StepFailed(
                    error.what, [one[2][row].image_id for row in rows], self._culprit([one])
                ) from None
        limit = self.config.clip or float("inf")
        norm = self.fabric.clip_gradients(self.live, self.optimizer, max_norm=limit, error_if_nonfinite=False)
        assert norm is not None
        values = _on_host(found, norm)  # the one wait for the device besides the matching
        if what := self._what_is_not_finite(values):
            images = [sample.image_id for one in passes for sample in one[2]]
            raise StepFailed(what, images, self._culprit(passes))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(number + 1)
        return values

    def losses(self, one: Pass, counts: Sequence[int] | None = None) -> Losses:
        """Forward and loss of one pass; `counts` as in `SetCriterion`."""
        batch, targets, _ = one
        device = self.fabric.device
        batch = batch.to(device)
        logits, boxes = self.live(batch.images.contiguous(memory_format=self.layout), batch.padding)
        return self.criterion(Outputs(logits, boxes), [target.to(device) for target in targets], counts)

    def _what_is_not_finite(self, values: Values) -> str | None:
        bad = [
            name for name, value in values.items() if name.startswith("loss_") and not math.isfinite(value)
        ]
        if bad:
            return f"loss term {', '.join(bad)}"
        scaled = self.config.precision == "fp16"  # its scaler skips steps whose gradient overflows
        if not math.isfinite(values["grad_norm"]) and not scaled:
            return f"gradient of {', '.join(bad_gradients(self.model)[:3]) or 'the model'}"
        return None

    def _culprit(self, passes: Sequence[Pass]) -> str | None:
        """What first puts out a NaN or infinite number in a second forward of the same images."""
        for batch, _, _ in passes:
            if not is_finite(batch.images):
                return "the images"
            forward = partial(self.model, batch.to(self.fabric.device))
            if name := first_bad_module(self.model, forward):
                return f"module {name}"
        return None


class StepFailed(Exception):
    """A step came to a NaN or infinite number.

    Attributes:
        what: what is not finite, such as `loss term loss_box_2`.
        image_ids: the images it comes from.
        culprit: what put out such a number first, where that can be told.
    """

    def __init__(self, what: str, image_ids: Sequence[int], culprit: str | None) -> None:
        super().__init__(f"{what} is not finite")
        self.what = what
        self.image_ids = tuple(image_ids)
        self.culprit = culprit


def _on_host(found: Sequence[Losses], norm: Tensor) -> Values:
    """Terms summed and watched values averaged over the passes of a step, in one transfer."""
    rows = [{"loss": one.total.detach(), **one.terms} for one in found]
    sums = [torch.stack([row[name] for row in rows]).sum() for name in rows[0]]
    watched = [torch.stack([one.monitors[name] for one in found]).nanmean() for name in found[0].monitors]
    names = [*rows[0], *found[0].monitors, "grad_norm"]
    return dict(zip(names, torch.stack([*sums, *watched, norm]).tolist(), strict=True))
