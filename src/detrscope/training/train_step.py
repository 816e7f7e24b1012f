"""One optimiser step: forward, loss and backward of its passes, clipping, the weights' move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from detrscope.blocks.queries import MixedQueries
from detrscope.core.errors import UserError
from detrscope.core.model_card import Scoring
from detrscope.core.types import Batch, Outputs, Proposals, Target
from detrscope.training.config import TrainConfig
from detrscope.training.denoising import Denoising, Noise, make_denoising
from detrscope.training.distributed import mean_over_ranks
from detrscope.training.ema import Ema
from detrscope.training.losses.criterion import (
    PAIRS,
    WEIGHTED,
    ClassLoss,
    CrossEntropy,
    Losses,
    LossWeights,
    SetCriterion,
)
from detrscope.training.losses.sigmoid import FocalCost, FocalLoss, MatchabilityLoss
from detrscope.training.matcher import ClassCost, Matcher, SoftmaxCost
from detrscope.training.nonfinite import NonFinite, bad_gradients, first_bad_module, is_finite
from detrscope.training.optim import Schedule, freeze_backbone, make_optimizer, parameter_groups, set_rates


class HasImageId(Protocol):
    """What the step asks of a sample besides its tensors."""

    @property
    def image_id(self) -> int:
        """The id by which errors name the image."""
        ...


MicroBatch = tuple[
    Batch, Sequence[Target], Sequence[HasImageId]
]  # what a loader gives: as much as one device sees at once
Values = dict[str, float]


class AsTensors(nn.Module):
    """A model that takes and gives bare tensors, as Fabric's precision and DDP want them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, padding: Tensor | None, noisy: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> dict[str, dict[str, Tensor | None] | None]:
        """Images [B, 3, H, W], padding [B, H, W], labels, boxes and mask of denoising queries -> `Outputs` as dicts."""
        extra = None if noisy is None else two_stage_queries(self.model).from_labels(*noisy)
        outputs = self.model(Batch(images, padding), extra=extra)
        proposals = outputs.proposals
        return {
            "predictions": {"logits": outputs.logits, "boxes_cxcywh": outputs.boxes_cxcywh},
            "proposals": None if proposals is None else dict(vars(proposals)),
        }


def two_stage_queries(model: nn.Module) -> MixedQueries:
    """The part of a model that takes denoising queries.

    Raises:
        UserError: the family has none.
    """
    queries = getattr(model, "queries", None)
    if not isinstance(queries, MixedQueries):
        raise UserError("train.denoising.groups: this family takes no denoising queries; set it to 0")
    return queries


def make_matcher(config: TrainConfig, scoring: Scoring) -> Matcher:
    """The assignment with the costs of the config; its class cost suits the scoring."""
    class_cost: ClassCost = FocalCost() if scoring == "sigmoid" else SoftmaxCost()
    return Matcher(class_cost, config.cost.classes, config.cost.box, config.cost.giou)


def make_criterion(config: TrainConfig, fabric: Fabric, scoring: Scoring) -> SetCriterion:
    """The set loss with the weights of the config, normalised over all devices; its class term suits the scoring."""
    loss = config.loss
    class_loss: ClassLoss = CrossEntropy(loss.no_object)
    if scoring == "sigmoid":
        class_loss = MatchabilityLoss() if loss.sigmoid == "overlap" else FocalLoss()
    return SetCriterion(
        make_matcher(config, scoring),
        class_loss,
        LossWeights(loss.classes, loss.box, loss.giou),
        mean_over_ranks=lambda tensor: mean_over_ranks(fabric, tensor, "mean"),
    )


def check_learning(model: nn.Module, config: TrainConfig) -> None:
    """Refuse settings that this model cannot learn by, before anything is written.

    Raises:
        UserError: a pattern of `lr_factors` that fits nothing, or denoising for a family that takes none.
    """
    parameter_groups(model, config)
    if config.denoising.groups:
        two_stage_queries(model)


class TrainStep:
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
        self.ema = Ema(model, config.ema.decay, config.ema.warmup_steps) if config.ema.enabled else None
        self.groups = parameter_groups(model, config)
        self.config = config
        self.fabric = fabric
        self.criterion = make_criterion(config, fabric, getattr(model, "scoring", "softmax"))
        self.live, self.optimizer = fabric.setup(AsTensors(model), make_optimizer(self.groups, config))

    @property
    def eval_model(self) -> nn.Module:
        """What is evaluated and saved: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def train_mode(self) -> None:
        """Training mode, but for norms that are frozen: those keep their statistics."""
        self.live.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
                module.eval()

    def step(self, passes: Sequence[MicroBatch], number: int, schedule: Schedule) -> Values:
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

    def losses(self, one: MicroBatch, counts: Sequence[int] | None = None) -> Losses:
        """Forward and loss of one pass; `counts` as in `SetCriterion`."""
        batch, targets, _ = one
        device = self.fabric.device
        batch = batch.to(device)
        here = [target.to(device) for target in targets]
        noisy = self._denoising(here)
        told = None if noisy is None else (noisy.labels, noisy.boxes_cxcywh, noisy.mask)
        found = self.live(batch.images.contiguous(memory_format=self.layout), batch.padding, told)
        proposals = None if found["proposals"] is None else Proposals(**found["proposals"])
        return self.criterion(Outputs(**found["predictions"], proposals=proposals), here, counts, noisy)

    def _denoising(self, targets: Sequence[Target]) -> Denoising | None:
        config = self.config.denoising
        if not config.groups:
            return None
        classes = two_stage_queries(self.model).label_embedding.num_embeddings
        return make_denoising(targets, Noise(config.groups, config.box, config.label), classes)

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

    def _culprit(self, passes: Sequence[MicroBatch]) -> str | None:
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
    terms = list(
        dict.fromkeys(name for row in rows for name in row)
    )  # a pass without boxes has no denoising terms
    sums = [torch.stack([row[name] for row in rows if name in row]).sum() for name in terms]
    pairs = torch.stack([one.monitors[PAIRS] for one in found])  # [passes]
    watched = {}
    for name in found[0].monitors:
        values = torch.stack([one.monitors[name] for one in found])
        if name == PAIRS:
            watched[name] = values.sum()
        elif name in WEIGHTED:
            watched[name] = (values * pairs).nansum() / pairs.sum()
        else:
            watched[name] = values.nanmean()
    names = [*terms, *watched, "grad_norm"]
    return dict(zip(names, torch.stack([*sums, *watched.values(), norm]).tolist(), strict=True))
