"""Outputs and losses beside the published Deformable DETR with the same random weights: all variants, a padded batch.

python -m benchmarks.parity_deformable --clone DIR
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.published import nested, stacked
from benchmarks.published_deformable import VARIANTS, arguments_of, build_published, import_published
from benchmarks.spread_weights import calibrate_linear, calibrate_norms, median_distance, spread_weights
from detrscope.checkpoints.load import load_model
from detrscope.core.types import Batch, Target
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import FocalLoss
from detrscope.training.losses.criterion import SetCriterion
from detrscope.training.matcher import FocalCost, Matcher

NAMES = {"loss_class": "loss_ce", "loss_box": "loss_bbox", "loss_giou": "loss_giou"}


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--clone", required=True, help="a clone of github.com/fundamentalvision/Deformable-DETR"
    )
    models = import_published(parser.parse_args().clone)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 256, 320, generator=generator)
    padding = torch.zeros(2, 256, 320, dtype=torch.bool)
    padding[0, 200:], padding[1, :, 250:] = True, True
    images = images.masked_fill(padding[:, None], 0.0)
    table = Table("variant", "logits, fp32", "boxes, fp32", "logits, fp64", "boxes, fp64", "losses, relative")
    table.add_column("median distance of boxes, px")
    table.title = "largest difference to the published code: all decoder layers and proposals"
    for variant in VARIANTS:
        torch.manual_seed(0)
        theirs, criterion = build_published(models, variant)
        theirs.eval()
        run = partial(theirs, nested(images, padding))
        spread(theirs, run)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "published.pth"
            torch.save({"model": theirs.state_dict(), "args": arguments_of(variant)}, path)
            loaded = load_model(path)
            assert loaded.card.variant == variant, loaded.card.variant
            model = loaded.model
            ours, published = model(Batch(images, padding)), run()
            losses = loss_difference(criterion, published, ours)
            single = differences(ours, published)
            model.double(), theirs.double()
            exact = differences(
                model(Batch(images.double(), padding)), theirs(nested(images.double(), padding))
            )
        table.add_row(
            variant,
            *(f"{x:.1e}" for x in (*single, *exact, losses)),
            f"{median_distance(published['pred_boxes'], 320, 256):.0f}",
        )
    Console(width=140).print(table)


def spread(model: Any, run: Any) -> None:
    """Weights under which a comparison can fail."""
    spread_weights(model)
    if not model.two_stage:
        model.transformer.reference_points.weight.data.mul_(
            0.3
        )  # points all over the image, not in its corners
    calibrate_norms(model, run)
    if model.with_box_refine:
        for head in model.bbox_embed:
            head.layers[-1].weight.data.mul_(0.3)
    else:
        calibrate_linear(model.bbox_embed[0].layers[-1], run)


def differences(ours: Any, published: dict[str, Any]) -> tuple[float, float]:
    """Largest difference of logits and boxes over all decoder layers and proposals."""
    logits, boxes = stacked(published)
    pairs = [(ours.logits, logits), (ours.boxes_cxcywh, boxes)]
    found = [float((a - b).abs().max()) for a, b in pairs]
    if ours.proposals is not None:
        encoder = published["enc_outputs"]
        found[0] = max(found[0], float((ours.proposals.logits - encoder["pred_logits"]).abs().max()))
        found[1] = max(found[1], float((ours.proposals.boxes_cxcywh - encoder["pred_boxes"]).abs().max()))
    return found[0], found[1]


def loss_difference(criterion: nn.Module, published: dict[str, Any], ours: Any) -> float:
    """Largest relative difference of any weighted term, with made-up truth."""
    generator = torch.Generator().manual_seed(3)
    targets = []
    for count in (6, 4):
        size = torch.rand(count, 2, generator=generator) * 0.4 + 0.05
        centre = size / 2 + torch.rand(count, 2, generator=generator) * (1 - size)
        labels = torch.randint(0, 91, (count,), generator=generator)
        targets.append(Target(labels, torch.cat([centre, size], dim=1)))
    theirs = criterion(published, [{"labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets])
    mine = SetCriterion(Matcher(FocalCost(), 2, 5, 2), (FocalLoss(weight=2), BoxL1(), BoxGIoU()), "sigmoid")(
        ours, targets
    )
    weights: Any = criterion.weight_dict
    worst, seen = 0.0, set()
    for name, value in mine.terms.items():
        term = next(t for t in NAMES if name.startswith(t))
        key = NAMES[term] + name.removeprefix(term).replace("_proposals", "_enc")
        seen.add(key)
        expected = float(theirs[key] * weights[key])
        worst = max(worst, abs(float(value) - expected) / expected)
    assert seen == {key for key in weights if key in theirs}, "a term is missing on one side"
    return worst


if __name__ == "__main__":
    main()
