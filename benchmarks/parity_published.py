"""Outputs beside the published DETR code with the same random weights: every variant, every layer, a padded batch.

python -m benchmarks.parity_published --clone DIR
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.published import build_published, import_published, nested, stacked
from benchmarks.spread_weights import calibrate_linear, calibrate_norms, median_distance, spread_weights
from detrscope.checkpoints.load import load_model
from detrscope.core.types import Batch

CASES = (
    ("detr-r50", "resnet50", False),
    ("detr-r101", "resnet101", False),
    ("detr-r50-dc5", "resnet50", True),
    ("detr-r101-dc5", "resnet101", True),
    ("detr-r18", "resnet18", False),
    ("detr-r34", "resnet34", False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", required=True, help="a clone of github.com/facebookresearch/detr")
    models = import_published(parser.parse_args().clone)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 384, 512, generator=generator)
    padding = torch.zeros(2, 384, 512, dtype=torch.bool)
    padding[0, 300:], padding[1, :, 400:] = True, True
    images = images.masked_fill(padding[:, None], 0.0)
    table = Table(
        "variant",
        "logits, fp32",
        "boxes, fp32",
        "logits, fp64",
        "boxes, fp64",
        "median distance of boxes, px",
    )
    table.title = "largest difference to the published code, all decoder layers"
    for variant, backbone, dilation in CASES:
        theirs, _ = build_published(models, backbone, dilation)
        theirs.eval()
        run = partial(theirs, nested(images, padding))
        spread_weights(theirs)
        calibrate_norms(theirs, run)
        calibrate_linear(theirs.bbox_embed.layers[-1], run)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = Path(folder) / "published.pth"
            torch.save({"model": theirs.state_dict()}, path)
            model = load_model(variant, weights=path).model
            ours, (logits, boxes) = model(Batch(images, padding)), stacked(run())
            theirs.double(), model.double()
            exact, (logits64, boxes64) = (
                model(Batch(images.double(), padding)),
                stacked(theirs(nested(images.double(), padding))),
            )
        table.add_row(
            variant,
            f"{(ours.logits - logits).abs().max():.1e}",
            f"{(ours.boxes_cxcywh - boxes).abs().max():.1e}",
            f"{(exact.logits - logits64).abs().max():.1e}",
            f"{(exact.boxes_cxcywh - boxes64).abs().max():.1e}",
            f"{median_distance(boxes[-1], 512, 384):.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
