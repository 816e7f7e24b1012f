"""COCO and YOLO folders written to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def save_image(path: Path, seed: int = 0) -> None:
    """Write a 64 x 48 image of noise, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_coco_json(path: Path, names: list[str], **row: Any) -> Path:
    """Write a COCO JSON of images with one box each, whose annotation has the fields of `row`."""
    annotation = {"category_id": 1, "bbox": [4, 5, 20, 10], "area": 200, "iscrowd": 0, **row}
    tree = {
        "images": [
            {"id": i, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(names, start=1)
        ],
        "annotations": [{"id": i, "image_id": i, **annotation} for i in range(1, len(names) + 1)],
        "categories": [{"id": 1, "name": "dog"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def write_yolo(folder: Path, images: str = "images", labels: str = "labels", count: int = 2) -> Path:
    """Write a YOLO folder with a data.yaml and one box in each image."""
    for i in range(count):
        save_image(folder / "train" / images / f"{i}.png", seed=i)
        label = folder / "train" / labels / f"{i}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text(f"train: train/{images}\nnames: [dog]\n")
    return folder
