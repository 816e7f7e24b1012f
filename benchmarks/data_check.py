"""Annotations of COCO's size checked: 118,000 images with 860,000 boxes, images not decoded.

    python -m benchmarks.data_check [--images 118000] [--boxes 860000]

Proves that `data check --no-pixels` takes less than a minute for them. The file is made first: boxes of 80 classes,
some of them bad, one JPEG under 118,000 names. Prints seconds and peak memory of the command in a process of its own,
with what it found, and ends with 1 where it took longer than a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

LONGEST = 60.0  # seconds
WIDTH, HEIGHT, CLASSES = 640, 480, 80
LINKS = 50_000  # names of one file; file systems allow 65,000


def write_coco_of_size(folder: Path, images: int, boxes: int) -> None:
    """Write a COCO folder: one box in a thousand sticks out of its image, one in ten thousand is empty."""
    generator = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    pixels = generator.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    for number in range(1, images + 1):
        path = folder / "train2017" / f"{number:012}.jpg"
        if number % LINKS == 1:
            first = path
            Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(first, quality=30)
        else:
            os.link(first, path)
    sizes = np.exp(generator.uniform(np.log(8), np.log(200), (boxes, 2))).round(2)
    corners = (generator.random((boxes, 2)) * ([WIDTH, HEIGHT] - sizes)).round(2)
    corners[::1000] += 300
    sizes[::10_000] = 0
    owners = generator.integers(1, images + 1, boxes)
    classes = generator.integers(1, CLASSES + 1, boxes)
    rows = [
        {
            "id": number,
            "image_id": int(owner),
            "category_id": int(category),
            "bbox": [*corner, *size],
            "area": size[0] * size[1],
            "iscrowd": 0,
            "segmentation": [[corner[0], corner[1], corner[0] + 1, corner[1], corner[0], corner[1] + 1]],
        }
        for number, (owner, category, corner, size) in enumerate(
            zip(owners, classes, corners.tolist(), sizes.tolist(), strict=True), start=1
        )
    ]
    names = [
        {"id": n, "file_name": f"{n:012}.jpg", "width": WIDTH, "height": HEIGHT, "license": 1}
        for n in range(1, images + 1)
    ]
    tree = {
        "info": {},
        "images": names,
        "annotations": rows,
        "categories": [{"id": i, "name": f"class {i}", "supercategory": "x"} for i in range(1, CLASSES + 1)],
    }
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(tree))


def main() -> int:
    """Time the command; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--folder", type=Path, help="folder of an earlier run, or to keep")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "coco"
        if not folder.exists():
            write_coco_of_size(folder, options.images, options.boxes)
        report = Path(temporary) / "report.json"
        words = [
            "data",
            "check",
            str(folder),
            "--no-pixels",
            "--queries",
            "100",
            "--quiet",
            "--out",
            str(report),
        ]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "detrscope", *words], check=False)
        seconds = time.perf_counter() - started
        found = json.loads(report.read_text())
    (counted,) = found["statistics"]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{counted['images']:,} images, {counted['boxes']:,} boxes: {seconds:.1f} s, {memory:,.0f} MiB")
    print(f"{found['errors']:,} errors, {found['warnings']:,} warnings")
    return 1 if seconds > LONGEST else 0


if __name__ == "__main__":
    sys.exit(main())
