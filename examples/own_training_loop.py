"""A training loop of your own around the model, matcher, criterion and loader of detrscope, in one file.

Datasets, augmentation, matching and losses come from the package; the order of things, the optimiser and the log are
yours. `detrscope train` adds to this what a long run needs: schedule, average of the weights, resuming, several
devices, evaluation, run folder.

    python examples/own_training_loop.py coco:my-data mine.safetensors 20
    detrscope detect photo.jpg --model mine.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

import torch

from detrscope.checkpoints.load import load_random_model
from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.dataset import TransformedDataset
from detrscope.data.loader import make_loader
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import AugmentConfig, TrainTransform
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import MatchabilityLoss
from detrscope.training.losses.criterion import SetCriterion
from detrscope.training.matcher import FocalCost, Matcher


def train(
    source: str, out: str | Path, epochs: int = 10, batch_size: int = 8, side: int = 128
) -> list[float]:
    """Train a small detector from scratch and save it; return the mean loss of each epoch.

    Args:
        source: dataset, such as coco:DIR, cvat:DIR or drawn-dogs:count=64; its split `train` is used.
        out: checkpoint to write, which `detrscope.load` and every command open.
        epochs: passes over the images.
        batch_size: images of a step.
        side: pixels of the longer side that images are resized to.
    """
    torch.manual_seed(0)
    dataset = open_dataset(source, "train")
    loaded = load_random_model("sprint-dense-n", {}, dataset.classes, Preprocessing(side, side))
    model, card = loaded.model, loaded.card

    transform = TrainTransform(AugmentConfig(flip=0.5, sizes=(), crop=0.0), card.preprocessing)
    samples = TransformedDataset(dataset, transform, cache=True)
    loader = make_loader(samples, batch_size, shuffle=True, seed=0)

    matcher = Matcher(FocalCost(), class_weight=2.0, box_weight=5.0, giou_weight=2.0)
    terms = (MatchabilityLoss(weight=1.0), BoxL1(weight=5.0), BoxGIoU(weight=2.0))
    criterion = SetCriterion(matcher, terms, model.scoring)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    means = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)  # order and augmentation depend on seed and epoch only
        model.train()
        totals, overlaps = [], []
        for batch, targets, _ in loader:
            outputs = model(batch)  # logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4] of all N decoder layers
            losses = criterion(outputs, targets)  # matched in every layer; .total has the gradient
            optimizer.zero_grad()
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            totals.append(losses.total.item())
            overlaps.append(losses.monitors["matched_iou"].item())  # NaN where no image has a box
        means.append(fmean(totals))
        iou = torch.tensor(overlaps).nanmean()
        print(f"epoch {epoch + 1}/{epochs}: loss {means[-1]:.2f}, IoU of matched boxes {iou:.2f}")
    save_checkpoint(
        out, model.eval(), card
    )  # the card: classes, original category ids, preprocessing, settings
    return means


def main() -> None:
    """Train on the dataset of the command line."""
    words = sys.argv[1:] if len(sys.argv) > 3 else [*sys.argv[1:], "10"]
    if len(words) != 3 or not words[2].isdecimal() or int(words[2]) < 1:
        print(f"usage: python {sys.argv[0]} SOURCE OUT.safetensors [EPOCHS]", file=sys.stderr)
        sys.exit(2)
    train(words[0], words[1], int(words[2]))


if __name__ == "__main__":
    main()
