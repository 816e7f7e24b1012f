"""DETR R50, batch 1, 800x1066: `load(...).predict` beside the published code and transformers, same random weights.

python -m benchmarks.inference --clone DIR [--rounds 7]
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch

import detrscope as ds
from benchmarks.published import build_published, import_published, nested
from benchmarks.ratio import compare, machine


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", required=True, help="a clone of github.com/facebookresearch/detr")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    models = import_published(arguments.clone)
    theirs, _ = build_published(models, "resnet50")
    theirs.eval()
    images = torch.randn(1, 3, 800, 1066)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "published.pth"
        torch.save({"model": theirs.state_dict()}, path)
        fp32 = ds.load("detr-r50", weights=path, device="cpu")
        bf16 = ds.load("detr-r50", weights=path, device="cpu", precision="bf16")
    print(machine())
    with torch.inference_mode():
        sample = nested(images)
        compare(
            "DETR R50, 1 x 800 x 1066, seconds an image",
            {
                "published, fp32": lambda: theirs(sample),
                "detrscope, fp32": lambda: fp32.predict(images),
                "detrscope, bf16": lambda: bf16.predict(images),
            },
            rounds=arguments.rounds,
        )


if __name__ == "__main__":
    main()
