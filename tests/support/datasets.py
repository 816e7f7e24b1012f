"""Small datasets written to disk, and the images in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CATEGORIES = ({"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 900, "name": "cow"})
MakeCoco = Callable[..., Path]
MakeDataset = Callable[..., Path]


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def with_orientation(image: Image.Image, path: Path, orientation: int) -> None:
    """Saved so that the upright picture is `image`, stored turned, with the EXIF tag that turns it back."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if undo is None else image.transpose(undo)
    settings = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"lossless": True}}
    stored.save(path, exif=exif, **settings.get(path.suffix, {}))


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """make_coco(annotations, images=2, size=(40, 30), split="train") -> folder with that split added."""

    def make(
        annotations: Sequence[dict[str, Any]] = (),
        images: int | Sequence[dict[str, Any]] = 2,
        *,
        size: tuple[int, int] = (40, 30),
        split: str = "train",
        categories: Sequence[dict[str, Any]] = CATEGORIES,
        folder: Path | None = None,
        first_seed: int = 0,
    ) -> Path:
        root = folder or tmp_path / "set"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / split).mkdir(exist_ok=True)
        if isinstance(images, int):
            width, height = size
            names = [f"{i}.png" for i in range(1, images + 1)]
            rows = [
                {"id": i, "file_name": n, "width": width, "height": height}
                for i, n in enumerate(names, start=1)
            ]
            for i, name in enumerate(names):
                noise_image(width, height, seed=first_seed + i).save(root / split / name)
        else:
            rows = list(images)
        numbered = [{"id": i, **a} for i, a in enumerate(annotations, start=1)]
        tree = {"images": rows, "annotations": numbered, "categories": list(categories)}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
        return root

    return make


def box(image: int, category: int, xywh: Sequence[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(xywh), **more}


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Makes COCO folders of grey noise with squares in the colour of their class."""

    def make(
        name: str = "squares", images: int = 6, boxes: int = 2, categories: tuple[int, ...] = (1, 7, 900)
    ) -> Path:
        folder = tmp_path / name
        random = np.random.default_rng(0)
        for split, first in (("train", 0), ("val", 100)):
            (folder / split).mkdir(parents=True)
            rows: dict[str, list[dict[str, object]]] = {
                "images": [],
                "annotations": [],
                "categories": [{"id": c, "name": f"class-{c}"} for c in categories],
            }
            for image_id in range(first, first + images):
                pixels = random.integers(100, 140, (48, 64, 3), dtype=np.uint8)
                for _ in range(boxes):
                    category = int(random.integers(len(categories)))
                    x, y, side = random.integers(0, 40), random.integers(0, 24), random.integers(12, 24)
                    pixels[y : y + side, x : x + side, category % 3] = 255
                    rows["annotations"].append(
                        {
                            "id": len(rows["annotations"]) + 1,
                            "image_id": image_id,
                            "category_id": categories[category],
                            "bbox": [int(x), int(y), int(side), int(side)],
                            "area": int(side) ** 2,
                            "iscrowd": 0,
                        }
                    )
                Image.fromarray(pixels).save(folder / split / f"{image_id}.png")
                rows["images"].append(
                    {"id": image_id, "file_name": f"{image_id}.png", "width": 64, "height": 48}
                )
            (folder / "annotations").mkdir(exist_ok=True)
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(rows))
        return folder

    return make
