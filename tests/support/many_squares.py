"""A detector that sees every coloured rectangle of an image exactly, as far as it shows: for large images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from detrscope.core.classes import ClassTable
from detrscope.core.model_card import ModelCard
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.probe import Probe
from detrscope.core.types import Outputs
from detrscope.inference.detector import Detector

CLASSES = ClassTable((1, 7, 900), ("ruby", "leaf", "sky"))  # red, green, blue
QUERIES = 40
Square = tuple[int, tuple[int, int, int, int]]  # class index, box x0, y0, x1, y1
SQUARES: list[Square] = [
    (0, (70, 20, 130, 40)),  # over the edges of tiles of 100
    (0, (190, 90, 210, 110)),  # over a corner
    (1, (5, 5, 15, 12)),
    (1, (120, 60, 290, 80)),  # longer than a tile
    (2, (283, 180, 300, 199)),
]


def draw_squares(height: int, width: int, squares: Sequence[Square]) -> Tensor:
    """uint8 [3, height, width]: rectangles on black; of one class they must not touch."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for index, (x0, y0, x1, y1) in squares:
        image[index, y0:y1, x0:x1] = 255
    return image


class ManySquares:
    """An engine without a model; query i is the i-th rectangle."""

    name, device, precision = "squares", "cpu", "fp32"
    sites: tuple[str, ...] = ()
    feature_sites: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []  # of each batch

    def predict(self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        self.shapes.append(tuple(images.shape))
        logits = torch.full((1, len(images), QUERIES, 4), -9.0)
        logits[..., 3] = 9.0
        boxes = torch.full((1, len(images), QUERIES, 4), 0.5)
        lit = Preprocessing().denormalise(images) > 127
        for i, image in enumerate(lit):
            height, width = image.shape[1:]
            query = 0
            for index, plane in enumerate(image.numpy()):
                for rows, columns in ndimage.find_objects(ndimage.label(plane)[0]):
                    logits[0, i, query, index] = 12 + query / 10
                    boxes[0, i, query] = torch.tensor(
                        [
                            (columns.start + columns.stop) / 2 / width,
                            (rows.start + rows.stop) / 2 / height,
                            (columns.stop - columns.start) / width,
                            (rows.stop - rows.start) / height,
                        ]
                    )
                    query += 1
        return Outputs(logits, boxes)


def squares_detector(preprocessing: Preprocessing | None = None) -> Detector:
    """The detector; by default it takes images as they are."""
    card = ModelCard("squares", "squares", {}, CLASSES, preprocessing or Preprocessing(fit="none"), "softmax")
    return Detector(ManySquares(), card)


def write_squares(folder: Path) -> Path:
    """A COCO dataset of the squares and a small image of one square."""
    rows: list[tuple[int, int, int, list[Square]]] = [
        (0, 300, 200, SQUARES),
        (1, 60, 40, [(2, (3, 3, 20, 30))]),
    ]
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, width, height, squares in rows:
        pixels = draw_squares(height, width, squares).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for index, (x0, y0, x1, y1) in squares:
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": CLASSES.ids[index]}
            annotations.append({**row, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    tree = {"images": images, "annotations": annotations, "categories": CLASSES.to_json()}
    (folder / "annotations.json").write_text(json.dumps(tree))
    return folder
