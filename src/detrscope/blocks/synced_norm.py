"""Batch norms that normalise with the statistics of all processes: several devices then take the steps of one.

torch's SyncBatchNorm is the same for GPUs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from detrscope.core.distributed import rank_and_world


@dataclass
class NormGroup:
    """What the synced norms of a model share.

    Attributes:
        processes: their process group. Collectives of a group must be called in the same order everywhere, and DDP
            calls its own while gradients are computed: so norms have a group to themselves.
        counts: whether the images of this process count; off for images that only keep it in step with the others.
    """

    processes: Any
    counts: bool = True


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm over the images of all processes, in training; each process may have another number of them."""

    group: NormGroup

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W]."""
        if not self.training or rank_and_world()[1] == 1:
            return super().forward(x)
        inputs = x.to(torch.promote_types(x.dtype, torch.float32))
        channels = inputs.shape[1]
        processes, weight = self.group.processes, float(self.group.counts)
        count = inputs.new_full((1,), inputs.numel() / channels)
        sums = _SumOverRanks.apply(torch.cat([inputs.sum((0, 2, 3)), count]) * weight, processes)
        total = sums[channels]
        mean = sums[:channels] / total  # [C]
        deviation = inputs - mean.view(1, -1, 1, 1)
        # A second pass over the data: the mean of squares minus the square of the mean would cancel.
        variance = _SumOverRanks.apply(deviation.square().sum((0, 2, 3)) * weight, processes) / total  # [C]
        self._update_statistics(mean.detach(), variance.detach(), total.detach())
        scale = (variance + self.eps).rsqrt() * self.weight  # [C]
        y = deviation * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return cast(Tensor, y.to(x.dtype))

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Update the running averages as nn.BatchNorm2d does, with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * total / (total - 1).clamp(min=1), momentum)


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all processes; so is the sum of its gradients."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, group: Any) -> Tensor:
        context.group = group
        total = tensor.clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total, group=context.group)
        return total, None


def sync_batch_norms(module: nn.Module) -> NormGroup | None:
    """Replace the batch norms of a module that learn by synced ones with the same parameters, and return their group.

    Must be called by every process. Names and tensors of the state dict stay. None where there are no such norms.
    """
    norms = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.BatchNorm2d and any(p.requires_grad for p in child.parameters())
    ]
    if not norms:
        return None
    group = NormGroup(torch.distributed.new_group())
    for parent, name, child in norms:
        synced = SyncedBatchNorm2d.__new__(SyncedBatchNorm2d)
        synced.__dict__ = {**child.__dict__, "group": group}
        setattr(parent, name, synced)
    return group
