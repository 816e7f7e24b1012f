"""Training, watched: a few pictures are looked at again and again while the model learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrscope.console import written_whole
from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes, xyxy_to_cxcywh
from detrscope.core.card import ModelCard
from detrscope.core.errors import UserError
from detrscope.core.postprocess import postprocess
from detrscope.core.probe import Probe
from detrscope.core.types import Batch, Level
from detrscope.data.dataset import DetectionDataset
from detrscope.data.images import read_image
from detrscope.lens.maps import map_of, mass_inside, merged_over
from detrscope.training.rundir import LOOKS
from detrscope.views.attention_film import Look, Moment

SHOWN = 0.3  # least score of a box that is drawn


@dataclass(frozen=True)
class Subject:
    """A picture to be watched, with its truth."""

    image: Tensor  # [3, H, W] uint8
    boxes_xyxy: Tensor  # [M, 4] pixels


def subjects_of(dataset: DetectionDataset, count: int) -> list[Subject]:
    """The first pictures that have an object."""
    chosen = [image for image in dataset.images if dataset.annotations[image.id]][:count]
    found = []
    for image in chosen:
        boxes = torch.tensor([a.bbox_xywh for a in dataset.annotations[image.id]], dtype=torch.float32)
        found.append(
            Subject(read_image(image.path), torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        )
    return found


class Watch:
    """Looks at its subjects when called and keeps what it sees in the run folder, a small file each time.

    Args:
        folder: the run folder.
        subjects: the pictures.
        card: of the model that learns.
    """

    def __init__(self, folder: Path, subjects: Sequence[Subject], card: ModelCard) -> None:
        self.folder = folder / LOOKS
        self.subjects = tuple(subjects)
        self.card = card
        if not subjects:
            raise UserError("train.watch.pictures: no validation picture has an object to look at")

    def __call__(self, model: nn.Module, step: int) -> None:
        """Look with the model as it is after `step` steps."""
        seen = [look_at(model, self.card, subject) for subject in self.subjects]
        arrays: dict[str, Any] = {
            f"{name}_{i}": value for i, (one, _) in enumerate(seen) for name, value in one.items()
        }
        masses = [mass for _, mass in seen if mass is not None]
        with written_whole(self.folder / f"step_{step:07d}.npz") as path:
            np.savez(path, mass_inside=np.mean(masses) if masses else np.nan, **arrays)


def look_at(
    model: nn.Module, card: ModelCard, subject: Subject
) -> tuple[dict[str, np.ndarray], float | None]:
    """The last decoder layer's merged map, boxes and scores of one picture, and the attention inside matched boxes."""
    training = model.training
    model.eval()
    probe = Probe(sites=["decoder.*.cross"])
    device = next(model.parameters()).device
    image = card.preprocessing.apply(subject.image)[None]
    with torch.no_grad():
        outputs = model(Batch(image).to(device), probe=probe)
    model.train(training)
    height, width = subject.image.shape[-2:]
    (scored,) = postprocess(outputs, card.scoring, [(height, width)])
    keep = scored.scores >= SHOWN
    rows = list(probe.records.values())[-1].rows()[0].float().cpu()  # [h, Q, S]
    level = _only_level(probe.levels)
    queries = scored.query_ids[keep].unique().cpu()
    merged = map_of(merged_over(rows, queries if len(queries) else scored.query_ids[:1].cpu()), level)
    arrays = {
        "attention": merged.numpy().astype(np.float32),
        "boxes": scored.boxes_xyxy[keep].cpu().numpy(),
        "scores": scored.scores[keep].cpu().numpy(),
    }
    return arrays, _matched_mass(rows, outputs.boxes_cxcywh[-1, 0].float().cpu(), subject, level)


def _only_level(levels: tuple[Level, ...]) -> Level:
    if len(levels) != 1:
        raise UserError(
            f"train.watch.pictures: this model looks at {len(levels)} maps; only one can be watched yet"
        )
    return levels[0]


def _matched_mass(rows: Tensor, boxes_cxcywh: Tensor, subject: Subject, level: Level) -> float | None:
    """Mean over true boxes: attention inside the box of the query whose box overlaps it most."""
    from torchvision.ops import box_iou

    if not len(subject.boxes_xyxy):
        return None
    height, width = subject.image.shape[-2:]
    found = scale_boxes(cxcywh_to_xyxy(boxes_cxcywh), width, height)
    best = box_iou(subject.boxes_xyxy, found).argmax(1)  # [M]
    truth = scale_boxes(xyxy_to_cxcywh(subject.boxes_xyxy), 1 / width, 1 / height)
    return float(mass_inside(rows[:, best], truth, level).mean())


def read_moments(folder: Path, subjects: Sequence[Subject]) -> list[Moment]:
    """What a `Watch` has kept, in the order of steps.

    Raises:
        UserError: nothing was kept.
    """
    moments = []
    for path in sorted((folder / LOOKS).glob("step_*.npz")):
        with np.load(path) as kept:
            looks = [
                Look(
                    image=subject.image.permute(1, 2, 0).numpy(),
                    attention=kept[f"attention_{i}"],
                    boxes_xyxy=kept[f"boxes_{i}"],
                    scores=kept[f"scores_{i}"],
                    truth_xyxy=subject.boxes_xyxy.numpy(),
                )
                for i, subject in enumerate(subjects)
            ]
            moments.append(Moment(int(path.stem.rpartition("_")[2]), looks, float(kept["mass_inside"])))
    if not moments or not subjects:
        raise UserError(f"{folder}: holds no looks; train with --train.watch.pictures=4")
    return moments


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """The rows of a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]
