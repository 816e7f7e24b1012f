"""A small dataset in the layout of COCO panoptic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
SKY, DOG, OTHER = 70_001, 300, 5  # ids over several colours


def segment_ids(number: int) -> np.ndarray:
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[:20] = SKY
    ids[15:35, 10 + number : 30 + number] = DOG
    ids[25:35, 40:50] = OTHER
    return ids


def write_panoptic(folder: Path) -> str:
    """Two images with sky (stuff), a dog (a thing) and a crowd of dogs; below it void."""
    pngs = folder / "annotations" / "panoptic_val2017"
    pngs.mkdir(parents=True)
    (folder / "val2017").mkdir()
    annotations = []
    for number in (1, 2):
        ids = segment_ids(number)
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colours).save(pngs / f"{number:03d}.png")
        Image.fromarray(colours).save(folder / "val2017" / f"{number:03d}.jpg")
        segments: list[dict[str, Any]] = []
        for own, category, crowd in ((SKY, 187, 0), (DOG, 18, 0), (OTHER, 18, 1)):
            ys, xs = np.nonzero(ids == own)
            box = [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
            row = {"id": own, "category_id": category, "iscrowd": crowd, "bbox": box, "area": len(xs)}
            segments.append(row)
        annotations.append({"image_id": number, "file_name": f"{number:03d}.png", "segments_info": segments})
    images = [{"id": n, "file_name": f"{n:03d}.jpg", "width": WIDTH, "height": HEIGHT} for n in (1, 2)]
    categories = [{"id": 18, "name": "dog", "isthing": 1}, {"id": 187, "name": "sky", "isthing": 0}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "panoptic_val2017.json").write_text(json.dumps(tree))
    return f"coco-panoptic:{folder}"
