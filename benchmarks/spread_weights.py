"""Random weights under which a comparison can fail: every query predicts a box of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def spread_weights(model: nn.Module, seed: int = 0) -> None:
    """Draw norms, statistics, queries and heads so that boxes of different queries lie far apart."""
    generator = torch.Generator().manual_seed(seed)

    def normal(t: Tensor, mean: float, std: float) -> None:
        t.copy_(torch.randn(t.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_mean"):
                normal(tensor, 0.0, 0.1)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif "query_pos" in name or "query_embed" in name:
                normal(tensor, 0.0, 4.0)
            elif "backbone" not in name and tensor.dim() >= 2:
                # Strong self-attention would make all tokens, and then all queries, alike.
                damped = "self_attn.o" in name
                # Points far from where they were told to be see something else: rounding errors grow.
                steady = "sampling_offsets" in name
                normal(tensor, 0.0, (0.3 if damped else 0.6 if steady else 1.2) * tensor[0].numel() ** -0.5)
            elif "backbone" in name and ("bn" in name or "normalization" in name) and name.endswith("weight"):
                normal(
                    tensor, 0.2, 0.02
                )  # a random ResNet of full strength multiplies rounding errors a hundredfold
            elif tensor.dim() == 1 and "norm" in name and name.endswith("weight"):
                normal(tensor, 1.0, 0.1)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)


def calibrate_norms(model: nn.Module, run: Callable[[], object]) -> None:
    """Give every batch norm the statistics of what it sees in one run, so that tokens differ from place to place."""

    def set_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        module.get_buffer("running_mean").copy_(x.mean((0, 2, 3)))
        module.get_buffer("running_var").copy_(x.var((0, 2, 3)))

    norms = [m for m in model.modules() if isinstance(getattr(m, "running_var", None), Tensor)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()


def calibrate_linear(linear: nn.Linear, run: Callable[[], object], spread: float = 1.5) -> None:
    """Shift and scale a head so that what it gives over all queries has mean 0 and this standard deviation."""
    seen: list[Tensor] = []
    hook = linear.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        run()
        hook.remove()
        out = seen[-1].flatten(0, -2)  # [*, 4]
        scale = spread / out.std(0)
        linear.weight.mul_(scale[:, None])
        linear.bias.copy_((linear.bias - out.mean(0)) * scale)


def median_distance(boxes_cxcywh: Tensor, width: int, height: int) -> float:
    """Median distance between the centres of two queries' boxes, in pixels: [..., Q, 4] -> a number."""
    centres = boxes_cxcywh[..., :2] * boxes_cxcywh.new_tensor([width, height])
    distance = torch.cdist(centres, centres)
    other = ~torch.eye(distance.shape[-1], dtype=torch.bool).expand_as(distance)
    return float(distance[other].median())
