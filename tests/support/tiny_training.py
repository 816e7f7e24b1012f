"""Stand-ins that learn in milliseconds: a detector, a loader of made-up images, a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from detrscope.blocks.queries import TrainingSupport
from detrscope.core.classes import ClassTable
from detrscope.core.model_card import ModelCard, Scoring
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Batch, Outputs, Queries, Target
from detrscope.training.loop import Hooks, train_model
from detrscope.training.outcome import Outcome
from detrscope.training.run_folder import RunFolder
from detrscope.training.train_config import TrainConfig
from detrscope.training.train_state import seed_all
from detrscope.training.train_step import MicroBatch

SIDE = 16  # pixels
CLASSES = ClassTable((3, 70), ("left", "right"))


class TinyDetector(nn.Module):
    """[B, 3, 16, 16] -> two layers of four queries; parameters are called backbone.* and heads.*."""

    scoring: Scoring = "softmax"
    training_support = TrainingSupport()

    def __init__(self, dropout: float = 0.1, layers: int = 2, queries: int = 4) -> None:
        super().__init__()
        self.shape = (layers, queries)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.Sequential(
            nn.Linear(128, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, layers * queries * 7)
        )

    def forward(self, batch: Batch, extra: Queries | None = None) -> Outputs:
        flat: Tensor = self.heads(self.backbone(batch.images).flatten(1))
        table = flat.view(len(flat), *self.shape, 7).transpose(0, 1)  # [N, B, Q, 7]
        return Outputs(table[..., :3], table[..., 3:].sigmoid())


@dataclass(frozen=True)
class Info:
    image_id: int


class TinyLoader:
    """Images that are a function of their id; `before` is called with the number of each pass."""

    def __init__(
        self,
        images: int = 12,
        batch_size: int = 4,
        boxes: int = 2,
        before: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.images, self.batch_size, self.boxes, self.before = images, batch_size, boxes, before
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return self.images // self.batch_size - self.skip

    def __iter__(self) -> Iterator[MicroBatch]:
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        for n in range(self.skip, self.images // self.batch_size):
            self.before(self.epoch * (self.images // self.batch_size) + n)
            yield made_up_micro_batch(order[n * self.batch_size : (n + 1) * self.batch_size], self.boxes)


def made_up_micro_batch(ids: list[int], boxes: int = 2) -> MicroBatch:
    """A pass of the images of these ids; every image has `boxes` boxes but those whose id divides by five."""
    images, targets = [], []
    for image_id in ids:
        generator = torch.Generator().manual_seed(1000 + image_id)
        images.append(torch.randn(3, SIDE, SIDE, generator=generator))
        count = 0 if image_id % 5 == 0 else boxes
        labels = torch.randint(0, 2, (count,), generator=generator)
        targets.append(Target(labels, torch.rand(count, 4, generator=generator) * 0.4 + 0.2))
    return Batch(torch.stack(images)), targets, [Info(i) for i in ids]


def cpu() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    return fabric


def card() -> ModelCard:
    return ModelCard("tiny", "tiny", {}, CLASSES, Preprocessing(SIDE, SIDE), "softmax")


def run(
    folder: Path,
    config: TrainConfig,
    loader: TinyLoader | None = None,
    model: nn.Module | None = None,
    **options: object,
) -> tuple[Outcome, nn.Module]:
    """A whole run, or the rest of one."""
    seed_all(config.seed)
    model = model or TinyDetector()
    outcome = train_model(
        model, card(), loader or TinyLoader(), config, RunFolder(folder), cpu(), Hooks(**options)
    )
    return outcome, model
