"""One process and two processes with the same global batch take the same steps.

Trains small models of several families on the CPU: alone, and as two processes joined by torchrun and gloo. Half of the
images have no boxes, so that at times one process has boxes and the other none; 13 images in batches of 4 leave a last
batch of one image, of which the second process gets none. Prints the largest difference of losses and of weights after
the steps, and exits with 1 where one is 1e-5 or more.

In float64, so that a difference is one of the computation. In float32, sums in another order differ in the seventh
digit, and now and then that moves a number over a kink (a ReLU, the choice of a query, a match), after which two runs
part, as do two runs of one process with different numbers of threads. `--precision float32` shows it.

    python -m benchmarks.reliability_ddp
    python -m benchmarks.reliability_ddp --steps 10 --cases detr sprint-dense
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from PIL import Image

from detrscope.console import setup_console
from detrscope.training.config import nest_run_config, resolve_training_config
from detrscope.training.launch import resolve_processes
from detrscope.training.schedule import constant
from detrscope.training.setup import make_training_loader, make_training_model, open_training_data
from detrscope.training.train_state import seed_all
from detrscope.training.train_step import TrainStep

LIMIT = 1e-5
PRECISIONS: dict[str, Any] = {"float64": "64-true", "float32": "32-true"}
IMAGES, SIDE, BATCH = 13, 64, 4
SHARED: dict[str, Any] = {
    "data.batch_size": BATCH,
    "data.val_split": None,
    "data.short_side": SIDE,
    "data.long_side": SIDE,
    "data.workers": 0,
    "augment.sizes": [],
    "augment.crop": 0.0,
    "model.backbone_weights": "none",
    "train.precision": "fp32",
    "train.accelerator": "cpu",
}
SMALL_DETR: dict[str, Any] = {
    "model.variant": "detr-r18",
    "model.overrides.width": 32,
    "model.overrides.queries": 8,
    "model.overrides.encoder": {"layers": 1, "heads": 4, "feedforward": 64, "dropout": 0.0},
    "model.overrides.decoder": {"layers": 2, "heads": 4, "feedforward": 64, "dropout": 0.0},
    "model.overrides.backbone.norm": "frozen",
}
SMALL_DEFORMABLE: dict[str, Any] = {
    "model.variant": "deformable-detr-r50-two-stage",
    "model.overrides.width": 64,
    "model.overrides.queries": 8,
    "model.overrides.encoder": {"layers": 1, "heads": 4, "feedforward": 64, "dropout": 0.0},
    "model.overrides.decoder": {"layers": 2, "heads": 4, "feedforward": 64, "dropout": 0.0},
    "model.overrides.backbone.norm": "frozen",
    "model.overrides.backbone.name": "resnet18",
}
DENOISING = {"train.denoising.groups": 3}
CASES: dict[str, dict[str, Any]] = {
    "detr": SMALL_DETR,
    "detr, accumulated": {**SMALL_DETR, "train.accumulate": 2},
    "detr, trainable norms": {**SMALL_DETR, "model.overrides.backbone.norm": "trainable"},
    "deformable-detr": SMALL_DEFORMABLE,
    "sprint-dense": {"model.variant": "sprint-dense-n", **DENOISING},
    "sprint-deformable": {"model.variant": "sprint-deformable-n", **DENOISING},
}


def write_images(folder: Path) -> None:
    """Write COCO's layout: one or two coloured rectangles in the images of even number, none in the others."""
    generator = torch.Generator().manual_seed(0)
    (folder / "images").mkdir(parents=True)
    annotations: list[dict[str, Any]] = []
    for number in range(IMAGES):
        image = torch.randint(0, 60, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        for _ in range(0 if number % 2 else 1 + number % 4 // 2):
            left, top = torch.randint(0, SIDE // 2, (2,), generator=generator).tolist()
            width, height = torch.randint(12, SIDE // 2, (2,), generator=generator).tolist()
            label = int(torch.randint(0, 2, (1,), generator=generator))
            image[label, top : top + height, left : left + width] = 220
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{number}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(IMAGES)]
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def take_steps(case: str, data: str, steps: int, out: Path, precision: str) -> None:
    """Train in this process, which may be one of several; write losses and weights."""
    setup_console(quiet=True, level="error")
    torch.set_num_threads(1)
    settings = {**SHARED, **CASES[case], "data.source": data}
    config = resolve_processes(resolve_training_config(None, None, nest_run_config(settings)))
    train = config.train
    strategy: Any = DDPStrategy() if train.processes > 1 else "auto"
    fabric = Fabric(
        accelerator="cpu", devices=train.devices, precision=PRECISIONS[precision], strategy=strategy
    )
    fabric.launch()
    dataset, _ = open_training_data(config)
    seed_all(config.train.seed)
    loaded, config = make_training_model(config, dataset, fresh=True)
    loader = make_training_loader(config, dataset, loaded.card, fabric)
    train_step = TrainStep(loaded.model, config.train, fabric)
    train_step.train_mode()
    losses: list[float] = []
    epoch = 0
    while len(losses) < steps:
        loader.set_epoch(epoch)
        micro_batches = iter(loader)
        while len(losses) < steps and (group := _take(micro_batches, config.train.accumulate)):
            value = train_step.step(group, len(losses), constant)["loss"]
            losses.append(
                float(fabric.all_reduce(torch.tensor(value, dtype=torch.float64), reduce_op="mean"))
            )
        epoch += 1
    if fabric.is_global_zero:
        torch.save({"losses": losses, "weights": loaded.model.state_dict()}, out)


def _take(micro_batches: Any, count: int) -> list[Any]:
    return [batch for _, batch in zip(range(count), micro_batches, strict=False)]


def differences(case: str, data: str, steps: int, folder: Path, precision: str) -> tuple[float, float]:
    """Return the largest difference of losses, and of weights, between one process and two."""
    runs = []
    for processes in (1, 2):
        out = folder / f"{processes}.pt"
        launcher = (
            [sys.executable]
            if processes == 1
            else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        )
        arguments = [
            "--worker",
            "--cases",
            case,
            "--data",
            data,
            "--steps",
            str(steps),
            "--out",
            str(out),
            "--precision",
            precision,
        ]
        done = subprocess.run([*launcher, __file__, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{case}, {processes} processes: {done.stderr[-3000:]}")
        runs.append(torch.load(out, weights_only=True))
    one, two = runs
    losses = max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True))
    weights = {
        name: (one["weights"][name].double() - v.double()).abs().max().item()
        for name, v in two["weights"].items()
    }
    worst = max(weights, key=weights.__getitem__)
    learned = f"{len(one['losses'])} steps, loss {one['losses'][0]:.1f} to {one['losses'][-1]:.1f}"
    print(f"{case:24} loss {losses:.1e}  weights {weights[worst]:.1e} ({worst}); {learned}", flush=True)
    return losses, weights[worst]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    for internal in ("--data", "--out"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="float64", choices=list(PRECISIONS))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        take_steps(given.cases[0], given.data, given.steps, Path(given.out), given.precision)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "data")
        found = [
            differences(case, f"coco:{folder}/data", given.steps, Path(folder), given.precision)
            for case in given.cases
        ]
    worst = max(max(pair) for pair in found)
    print(f"largest difference after {given.steps} steps: {worst:.1e}, limit {LIMIT:.0e}")
    if worst >= LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
