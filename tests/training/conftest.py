"""A real dataset on disk, small enough to train on in a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are so small that threads only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MakeDataset = Callable[..., Path]


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
