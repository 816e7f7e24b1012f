"""A world that a model of a few lines sees perfectly: one coloured rectangle on black in each picture."""

import json
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from detrscope.core.classes import ClassTable
from detrscope.core.model_card import ModelCard
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Batch, Outputs
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine

NAMES = ("ruby", "leaf", "sky")  # red, green, blue
IDS = (1, 7, 900)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
# width and height of the picture; left, top, width, height of the rectangle; class
WORLD = (
    ((64, 48), (8, 8, 24, 16), 0),
    ((48, 96), (0, 40, 48, 24), 1),
    ((120, 40), (60, 4, 40, 32), 2),
    ((64, 48), (20, 12, 8, 30), 2),
    ((33, 77), (5, 60, 11, 13), 1),
)


def picture(number: int) -> Image.Image:
    size, (x, y, w, h), index = WORLD[number]
    image = Image.new("RGB", size)
    image.paste(COLOURS[index], (x, y, x + w, y + h))
    return image


def write_world(folder: Path, *, ids: tuple[int, ...] = IDS, names: tuple[str, ...] = NAMES) -> Path:
    """The world as `images/ + annotations.json`; the images' ids have gaps and are not in order."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (size, box, index) in enumerate(WORLD):
        picture(number).save(folder / "images" / f"{number}.png")
        image_id = 50 - 7 * number
        images.append({"id": image_id, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
        annotations.append(
            {"id": number + 1, "image_id": image_id, "category_id": ids[index], "bbox": list(box)}
        )
    categories = [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(tree))
    return folder


def card(*, ids: tuple[int, ...] = IDS, names: tuple[str, ...] = NAMES) -> ModelCard:
    """Of a model that sees pictures at twice their size or so."""
    return ModelCard("squares", "squares", {}, ClassTable(ids, names), Preprocessing(96, 200), "softmax")


def found_in(image: Tensor) -> tuple[int, Tensor]:
    """Class index and box xyxy in pixels of the rectangle in [3, h, w], values 0..1."""
    lit = image > 0.5  # [3, h, w]
    index = int(lit.flatten(1).sum(1).argmax())
    rows, columns = lit[index].any(1).nonzero(), lit[index].any(0).nonzero()
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return index, torch.stack(corners).float()


class SeesSquares(nn.Module):
    """Query 1 finds the rectangle; query 0 is never sure of anything."""

    sites: tuple[str, ...] = ()
    feature_sites: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.sizes: list[int] = []  # images in each batch

    def forward(self, batch: Batch) -> Outputs:
        assert batch.images.dtype == self.backbone.weight.dtype
        self.sizes.append(len(batch.images))
        preprocessing = Preprocessing()
        logits = torch.zeros(1, len(batch.images), 2, 4)
        boxes = torch.full((1, len(batch.images), 2, 4), 0.5)
        logits[..., 3] = 5.0
        for i, image in enumerate(batch.images):
            height, width = image.shape[-2:]
            if batch.padding is not None:
                height = int((~batch.padding[i]).any(1).sum())
                width = int((~batch.padding[i]).any(0).sum())
            seen = preprocessing.denormalise(image[:, :height, :width].float()) / 255
            index, (x0, y0, x1, y1) = found_in(seen)
            logits[0, i, 1, index] = 9.0
            centre = torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height])
            boxes[0, i, 1] = torch.cat([centre, torch.stack([(x1 - x0) / width, (y1 - y0) / height])])
        return Outputs(logits, boxes)


class SeesSquaresAndAll(SeesSquares):
    """The rectangle with score 0.9 and, below it, the whole picture as class 0 with score 0.4."""

    def forward(self, batch: Batch) -> Outputs:
        outputs = super().forward(batch)
        for query, score in ((1, 0.9), (0, 0.4)):
            rest = (1 - score) / 3
            found = outputs.logits[0, :, query, :3].argmax(1)
            outputs.logits[0, :, query] = math.log(rest)
            for image, index in enumerate(found.tolist()):
                outputs.logits[0, image, query, index] = math.log(score)
        outputs.boxes_cxcywh[0, :, 0] = torch.tensor([0.5, 0.5, 1.0, 1.0])
        return outputs


class SquareDetector(Detector):
    """A detector for pictures of this world, at their own size."""

    def __init__(self) -> None:
        whole = ModelCard(
            "squares", "squares", {}, ClassTable(IDS, NAMES), Preprocessing(fit="none"), "softmax"
        )
        super().__init__(TorchEngine(SeesSquaresAndAll()), whole)  # type: ignore[arg-type]
