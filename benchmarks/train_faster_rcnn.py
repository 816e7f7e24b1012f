"""Train torchvision's Faster R-CNN from scratch for some CPU minutes, to compare it with a detection transformer.

    python -m benchmarks.train_faster_rcnn --data coco:bccd --cpu-minutes 20 --out faster_rcnn.safetensors
    detrscope compare --model run/ --model faster_rcnn.safetensors --data coco:bccd --out comparison/

Data, augmentation and loader are those of `detrscope train`; model and losses are torchvision's. Every layer and norm
is trained: frozen norms with random weights learn nothing. The budget is time of this process on all its cores, so that
it is the same on a busy machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.dataset import TransformedDataset
from detrscope.data.loader import Collated, DetectionLoader, make_loader
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import AugmentConfig, TrainTransform
from detrscope.inference.faster_rcnn import FasterRcnnConfig, build_faster_rcnn, faster_rcnn_card
from detrscope.ops.kernels.native_precision import is_native_precision
from detrscope.training.ema import Ema

# As in the preset `bccd`, for the comparison to be one of models.
AUGMENT = AugmentConfig(
    flip=0.5, vertical_flip=0.5, sizes=(), crop=0.0, zoom=(0.9, 1.6), aspect=1.1, brightness=0.15
)
WARM_UP, FINAL = 0.05, 0.01  # shares of the budget and of the rate
CLIP = 10.0  # of the gradient's norm


PROPOSALS = 300  # most of an image; torchvision's 1000 are for images of 800 pixels
SAMPLED = (
    128,
    64,
)  # anchors and proposals of an image that the losses see; torchvision's 256 and 512 cost more time


@dataclass(frozen=True)
class Recipe:
    """Settings of the optimiser."""

    batch_size: int
    optimiser: str  # "sgd" or "adamw"
    rate: float
    weight_decay: float
    seed: int


def rate_at(progress: float) -> float:
    """Return the share of the full rate at a share of the budget: a linear warm-up, then half a cosine."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    along = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * along)) / 2


def losses(
    model: FasterRCNN, images: list[Tensor], targets: list[dict[str, Tensor]], bf16: bool
) -> dict[str, Tensor]:
    """Return torchvision's four losses.

    As the model's own forward, but for bf16 in the backbone and pyramid only: torchvision decodes boxes in the type of
    their deltas, and in bf16 would round them to one or two pixels.
    """
    resized, sized_targets = model.transform(images, targets)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        maps = model.backbone(resized.tensors.to(memory_format=torch.channels_last))
    maps = OrderedDict((name, values.float()) for name, values in maps.items())
    proposals, of_proposals = model.rpn(resized, maps, sized_targets)
    _, of_boxes = model.roi_heads(maps, proposals, resized.image_sizes, sized_targets)
    return {**of_proposals, **of_boxes}


def as_torchvision(collated: Collated) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return images without padding and targets with boxes in their pixels and labels from 1."""
    batch, targets, _ = collated
    images, dicts = [], []
    for i, (image, target) in enumerate(zip(batch.images, targets, strict=True)):
        if batch.padding is not None:
            height, width = ((~batch.padding[i]).any(dim=axis).sum() for axis in (1, 0))
            image = image[:, :height, :width]
        boxes = scale_boxes(cxcywh_to_xyxy(target.boxes_cxcywh), image.shape[2], image.shape[1])
        images.append(image)
        dicts.append({"boxes": boxes, "labels": target.labels + 1})
    return images, dicts


def epochs(loader: DetectionLoader) -> Iterator[Collated]:
    """Yield batches of one epoch after the other."""
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def make_optimiser(model: FasterRCNN, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser; biases and norms have no weight decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.rate)


def train(
    model: FasterRCNN,
    loader: DetectionLoader,
    recipe: Recipe,
    cpu_minutes: float,
    bf16: bool,
    save: Callable[[FasterRCNN, float, int], None],
) -> None:
    """Train until the budget is spent.

    Args:
        model: model with random weights; changed.
        loader: augmented images.
        recipe: settings of the optimiser.
        cpu_minutes: budget.
        bf16: compute backbone and pyramid in bf16.
        save: takes the running average of the weights, the CPU minutes spent and the steps done, ten times or so.
    """
    optimiser = make_optimiser(model, recipe)
    model.train().to(memory_format=torch.channels_last)
    average = Ema(model, decay=0.998, warmup_steps=300)
    start, shown, saved, total = time.process_time(), 0.0, 0.0, 0.0
    for step, collated in enumerate(epochs(loader), start=1):
        minutes = (time.process_time() - start) / 60
        progress = minutes / cpu_minutes
        if progress >= 1 or progress - saved >= 0.1:
            saved = progress
            save(average.model, minutes, step - 1)
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * rate_at(progress)
        terms = losses(model, *as_torchvision(collated), bf16=bf16)
        loss = torch.stack([*terms.values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        average.update(step)
        total = loss.item() if step == 1 else 0.98 * total + 0.02 * loss.item()
        if progress - shown >= 0.02:
            shown = progress
            each = " ".join(
                f"{name.removeprefix('loss_')} {value.item():.3f}" for name, value in terms.items()
            )
            print(f"{progress:4.0%}  step {step}  loss {total:.3f}  {each}", flush=True)


def main() -> None:
    """Train on a dataset and write one file that `detrscope compare` takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="dataset, such as coco:bccd")
    parser.add_argument("--split", default="train")
    parser.add_argument("--cpu-minutes", type=float, default=20, help="budget")
    parser.add_argument("--out", required=True, help="safetensors file")
    parser.add_argument("--backbone", default="resnet18", choices=("resnet18", "resnet34", "resnet50"))
    parser.add_argument(
        "--stages", type=int, nargs="+", default=[2, 3, 4], help="ResNet stages in the pyramid"
    )
    parser.add_argument("--anchors", type=int, nargs="+", default=[24, 48, 96, 128], help="anchors in pixels")
    parser.add_argument("--representation", type=int, default=256, help="width of the box head")
    parser.add_argument("--short-side", type=int, default=240)
    parser.add_argument("--long-side", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--optimiser", default="sgd", choices=("sgd", "adamw"))
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    config = FasterRcnnConfig(
        backbone=a.backbone,
        stages=tuple(a.stages),
        anchors=tuple(a.anchors),
        representation=a.representation,
        proposals=PROPOSALS,
    )
    recipe = Recipe(a.batch_size, a.optimiser, a.rate, a.weight_decay, a.seed)
    size = Preprocessing(a.short_side, a.long_side)
    dataset = open_dataset(a.data, a.split)
    # The model resizes and normalises itself, in training as in detection: the loader's images are twice as large.
    raw = Preprocessing(2 * a.short_side, 2 * a.long_side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    samples = TransformedDataset(dataset, TrainTransform(AUGMENT, raw), cache=True)
    loader = make_loader(samples, recipe.batch_size, shuffle=True, seed=recipe.seed, drop_last=True)
    model = build_faster_rcnn(config, len(dataset.classes), size)
    model.rpn.fg_bg_sampler = BalancedPositiveNegativeSampler(SAMPLED[0], 0.5)
    model.roi_heads.fg_bg_sampler = BalancedPositiveNegativeSampler(SAMPLED[1], 0.25)
    bf16 = is_native_precision(torch.bfloat16)
    variant = f"fasterrcnn-{a.backbone.replace('resnet', 'r')}-fpn"

    def save(trained: FasterRCNN, minutes: float, steps: int) -> None:
        source = f"{dataset.name}, {minutes:.1f} CPU minutes, {steps} steps of {a.batch_size} images"
        card = faster_rcnn_card(variant, config, dataset.classes, size, source)
        save_checkpoint(a.out, trained, replace(card, precision="bf16" if bf16 else "fp32"))
        print(f"{a.out}: {source}", flush=True)

    train(model, loader, recipe, a.cpu_minutes, bf16, save)


if __name__ == "__main__":
    main()
