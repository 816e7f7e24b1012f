"""Small datasets made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrscope.console import log

CATEGORIES = ({"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 900, "name": "cow"})
MakeCoco = Callable[..., Path]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
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


@pytest.fixture(autouse=True)
def log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands keep the log to themselves; later tests want to read it."""
    monkeypatch.setattr(log, "propagate", True)


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
                picture(width, height, seed=first_seed + i).save(root / split / name)
        else:
            rows = list(images)
        numbered = [{"id": i, **a} for i, a in enumerate(annotations, start=1)]
        tree = {"images": rows, "annotations": numbered, "categories": list(categories)}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
        return root

    return make


def box(image: int, category: int, xywh: Sequence[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(xywh), **more}
