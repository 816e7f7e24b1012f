"""Deformable DETR R50 beside transformers with the same random weights: inference, its memory, a training step.

python -m benchmarks.deformable [--rounds 5] [--variant deformable-detr-r50] [--only inference|memory|training]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import detrscope as ds
from benchmarks.ratio import compare, machine
from benchmarks.training_step import made_up_targets, our_step
from detrscope.core.types import Target

SWITCHES: dict[str, dict[str, Any]] = {
    "deformable-detr-r50": {},
    "deformable-detr-r50-single-scale": {"num_feature_levels": 1},
    "deformable-detr-r50-single-scale-dc5": {"num_feature_levels": 1, "dilation": True},
    "deformable-detr-r50-refine": {"with_box_refine": True},
    "deformable-detr-r50-two-stage": {"with_box_refine": True, "two_stage": True},
}
HEIGHT, WIDTH = 800, 1066


def transformers_model(variant: str) -> Any:
    """DeformableDetrForObjectDetection, random weights; batch norms as in training and inference there."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    torch.manual_seed(0)
    config = DeformableDetrConfig(num_labels=91, auxiliary_loss=True, **SWITCHES[variant])
    return DeformableDetrForObjectDetection(config)


def side(variant: str, name: str, folder: Path) -> Callable[[torch.Tensor], object]:
    """One forward of a side by its name: `transformers, fp32`, `detrscope, bf16` ..."""
    who, precision = name.split(", ")
    if who == "detrscope":
        return ds.load(folder, device="cpu", precision=precision).predict
    theirs = transformers_model(variant).eval()
    if precision == "fp32":
        return theirs
    theirs.to(torch.bfloat16)
    return lambda images: theirs(images.bfloat16())


SIDES = ("transformers, fp32", "detrscope, fp32", "detrscope, bf16")


def inference(variant: str, folder: Path, rounds: int) -> None:
    """Seconds an image."""
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    runs = {name: side(variant, name, folder) for name in SIDES}
    with torch.inference_mode():
        compare(
            f"{variant}, 1 x {HEIGHT} x {WIDTH}, seconds an image",
            {name: lambda run=run: run(images) for name, run in runs.items()},
            rounds=rounds,
        )


def memory(variant: str, folder: Path) -> None:
    """Peak memory of a forward, each side in a process of its own."""
    table = Table("side", "libraries, MiB", "peak, MiB", "ratio", "model and forward, MiB", "ratio")
    table.title = f"{variant}, 1 x {HEIGHT} x {WIDTH}: resident memory of the process in one forward"
    first: tuple[float, float] | None = None
    for name in SIDES:
        command = [
            sys.executable, "-W", "ignore", "-m", "benchmarks.deformable", "--variant", variant, "--peak", name,
            "--folder", str(folder),
        ]  # fmt: skip
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        before, peak = float(answer[-2]), float(answer[-1])
        first = first or (peak, peak - before)
        ratios = (peak / first[0], (peak - before) / first[1])
        table.add_row(
            name,
            f"{before:.0f}",
            f"{peak:.0f}",
            f"{ratios[0]:.2f}",
            f"{peak - before:.0f}",
            f"{ratios[1]:.2f}",
        )
    Console(width=140).print(table)


def peak(variant: str, name: str, folder: Path) -> None:
    """Resident memory with nothing but libraries, and at the peak of the second forward: the first lays out weights."""
    if name.startswith("transformers"):
        from transformers import DeformableDetrForObjectDetection

        assert DeformableDetrForObjectDetection
    else:
        assert ds.load
    before = _resident("VmRSS")
    run = side(variant, name, folder)
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    with torch.inference_mode():
        run(images)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        run(images)
    print(before, _resident("VmHWM"))


def _resident(what: str) -> float:
    """Read a line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def transformers_step(variant: str, images: torch.Tensor, targets: list[Target]) -> Callable[[], object]:
    """Return a step of transformers' model with its own loss, AdamW and clipping."""
    model = transformers_model(variant).train()
    slow = [p for n, p in model.named_parameters() if "backbone" in n and p.requires_grad]
    fast = [p for n, p in model.named_parameters() if "backbone" not in n and p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": fast}, {"params": slow, "lr": 2e-5}]
    optimiser = torch.optim.AdamW(groups, lr=2e-4, weight_decay=1e-4)
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]

    def step() -> float:
        loss = model(images, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimiser.step()
        return float(loss)

    return step


def training(variant: str, rounds: int) -> None:
    """Seconds a step, 2 x 384 x 384."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 384, 384)
    targets = made_up_targets(2)
    compare(
        f"training step, {variant}, 2 x 384 x 384",
        {
            "transformers, fp32": transformers_step(variant, images, targets),
            "detrscope, fp32": our_step(images, targets, "fp32", variant),
            "detrscope, bf16": our_step(images, targets, "bf16", variant),
        },
        rounds=rounds,
    )


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="deformable-detr-r50", choices=SWITCHES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("inference", "memory", "training"))
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.variant, given.peak, given.folder)
        return
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        transformers_model(given.variant).save_pretrained(folder)
        if given.only in (None, "inference"):
            inference(given.variant, folder, given.rounds)
        if given.only in (None, "memory"):
            memory(given.variant, folder)
        if given.only in (None, "training"):
            training(given.variant, given.rounds)


if __name__ == "__main__":
    main()
