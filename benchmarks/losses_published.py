"""Loss terms beside the published criterion on the same random outputs: every term, every layer, empty images too.

python -m benchmarks.losses_published --clone DIR
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.published import build_published, import_published
from detrscope.core.types import Outputs, Target
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import CrossEntropy
from detrscope.training.losses.criterion import SetCriterion
from detrscope.training.matcher import Matcher, SoftmaxCost

LAYERS, IMAGES, QUERIES, CLASSES = 6, 4, 100, 91
NAMES = {"loss_class": "loss_ce", "loss_box": "loss_bbox", "loss_giou": "loss_giou"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", required=True, help="a clone of github.com/facebookresearch/detr")
    models = import_published(parser.parse_args().clone)
    _, theirs = build_published(models, "resnet18")
    ours = SetCriterion(Matcher(SoftmaxCost(), 1, 5, 2), (CrossEntropy(), BoxL1(), BoxGIoU()), "softmax")
    worst: dict[str, float] = {}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(LAYERS, IMAGES, QUERIES, CLASSES + 1, generator=generator)
        boxes = torch.rand(LAYERS, IMAGES, QUERIES, 4, generator=generator) * 0.5 + 0.2
        counts = [0, *torch.randint(1, 20, (IMAGES - 1,), generator=generator).tolist()]
        targets = [
            Target(
                torch.randint(0, CLASSES, (n,), generator=generator),
                torch.rand(n, 4, generator=generator) * 0.5 + 0.2,
            )
            for n in counts
        ]
        layers = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
        published = theirs(
            {**layers[-1], "aux_outputs": layers[:-1]},
            [{"labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets],
        )
        found = ours(Outputs(logits, boxes), targets).terms
        for name, value in found.items():
            term, _, layer = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
            key = NAMES[term] + (f"_{layer}" if layer else "")
            expected = float(published[key] * theirs.weight_dict[key])
            worst[term] = max(worst.get(term, 0.0), abs(float(value) - expected) / expected)
    table = Table("term", "largest relative difference over 20 batches and 6 layers")
    for term, difference in worst.items():
        table.add_row(term, f"{difference:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
