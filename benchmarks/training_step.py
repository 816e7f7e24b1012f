"""One training step of DETR R50 on 2 x 512 x 512 with 7 boxes each: forward, loss, matching, backward, clip, AdamW.

The other side is the published model, matcher, criterion and optimiser settings.

python -m benchmarks.training_step --clone DIR [--rounds 5]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.fabric import Fabric
from torch import nn

from benchmarks.published import build_published, import_published, nested
from benchmarks.ratio import compare, machine
from detrscope.core.types import Batch, Target
from detrscope.families import build
from detrscope.training.schedule import constant
from detrscope.training.train_config import TrainConfig
from detrscope.training.train_step import TrainStep

BOXES = 7


def published_step(
    models: object, images: torch.Tensor, targets: list[dict[str, torch.Tensor]]
) -> Callable[[], object]:
    """Return the published training step, as its engine does it."""
    model, criterion = build_published(models, "resnet50")
    model.train(), criterion.train()
    slow = [p for n, p in model.named_parameters() if "backbone" in n and p.requires_grad]
    fast = [p for n, p in model.named_parameters() if "backbone" not in n and p.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": fast}, {"params": slow, "lr": 1e-5}], lr=1e-4, weight_decay=1e-4
    )
    samples = nested(images)

    def step() -> float:
        losses = criterion(model(samples), targets)
        total = sum(losses[k] * criterion.weight_dict[k] for k in losses if k in criterion.weight_dict)
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimiser.step()
        return float(total)

    return step


@dataclass(frozen=True)
class Sample:
    """What the loop's step asks of a sample besides its tensors."""

    image_id: int


def our_step(
    images: torch.Tensor,
    targets: list[Target],
    precision: Literal["fp32", "bf16"],
    variant: str = "detr-r50",
) -> Callable[[], object]:
    """Return the loop's own step, with its checks for non-finite numbers."""
    config = TrainConfig(precision=precision)
    fabric = Fabric(
        accelerator="cpu", devices=1, precision={"fp32": "32-true", "bf16": "bf16-mixed"}[precision]
    )
    train_step = TrainStep(build(variant, {}, 91).train(), config, fabric)
    one = (Batch(images), targets, [Sample(i) for i in range(len(targets))])
    return lambda: train_step.step([one], 0, constant)


def made_up_targets(images: int) -> list[Target]:
    """Boxes that lie inside of their image."""
    targets = []
    for _ in range(images):
        size = torch.rand(BOXES, 2) * 0.3 + 0.05
        centre = size / 2 + torch.rand(BOXES, 2) * (1 - size)
        targets.append(Target(torch.randint(0, 91, (BOXES,)), torch.cat([centre, size], dim=1)))
    return targets


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", required=True, help="a clone of github.com/facebookresearch/detr")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    models = import_published(arguments.clone)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 512, 512)
    targets = made_up_targets(2)
    theirs = [{"labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
    print(machine())
    compare(
        "training step, DETR R50, 2 x 512 x 512, 7 boxes each",
        {
            "published, fp32": published_step(models, images, theirs),
            "detrscope, fp32": our_step(images, targets, "fp32"),
            "detrscope, bf16": our_step(images, targets, "bf16"),
        },
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
