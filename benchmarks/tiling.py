"""AP on large images with and without tiles, on mosaics of drawn dogs.

python -m benchmarks.tiling --out mosaics --count 4

Draws images of 4,000 x 3,000 pixels out of square scenes of 125, 250, 500 and 1,000 pixels, each with its dogs, and
writes them with their exact boxes as a COCO dataset. An image has at most 90 dogs, since COCO's AP counts the best 100
results of a class in an image. Then `evaluate` runs on the whole images and on their tiles. The settings of merging
were chosen on mosaics of seed 0; the default is another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.table import Table

import detrscope as ds
from detrscope import console
from detrscope.commands.evaluate import evaluate
from detrscope.core.tiling import Tiling, parse_tile_size
from detrscope.data.drawn_dogs import SOFTWARE
from detrscope.data.write_coco import atomic_coco_folder
from detrscope.synthetic.scene import draw_scene

WIDTH, HEIGHT, CELL = 4000, 3000, 1000  # pixels
SMALLEST = 125  # pixels, of a scene
SPLIT = 0.35  # probability that a scene is divided into four
MAX_DOGS = 90
COLUMNS = ("AP", "AP50", "AP_small", "AP_medium", "AP_large", "AR_100")


def scenes(rng: np.random.Generator, x: int, y: int, side: int) -> Iterator[tuple[int, int, int]]:
    """Yield x, y and side of the scenes of a cell, which is divided into four at random."""
    half = side // 2
    if half < SMALLEST or rng.random() > SPLIT:
        yield x, y, side
        return
    for dy in (0, half):
        for dx in (0, half):
            yield from scenes(rng, x + dx, y + dy, half)


def draw_mosaic(seed: int, index: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return an image uint8 [HEIGHT, WIDTH, 3] and its annotations, at most `MAX_DOGS`."""
    rng = np.random.default_rng([seed, index])
    cells = [(x, y) for y in range(0, HEIGHT, CELL) for x in range(0, WIDTH, CELL)]
    places = [place for x, y in cells for place in scenes(rng, x, y, CELL)]
    image, rows = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
    number = 0
    for x, y, side in places:
        while True:  # a scene with more dogs than are left is drawn again
            scene = draw_scene(seed, index * 100_000 + number, side)
            number += 1
            if len(rows) + len(scene.boxes_xyxy) <= MAX_DOGS:
                break
        image[y : y + side, x : x + side] = scene.image
        for dog, (x0, y0, x1, y1) in enumerate(scene.boxes_xyxy.tolist()):
            area = int((scene.instance == dog + 1).sum())
            rows.append({"bbox": [x + x0, y + y0, x1 - x0, y1 - y0], "area": area})
    return image, rows


def write_mosaics(out: Path, count: int, seed: int) -> None:
    """Write images and annotations as a COCO dataset."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    text = PngInfo()
    text.add_text("Software", SOFTWARE)  # by which the shipped model knows that these are drawn dogs
    with atomic_coco_folder(out) as folder:
        (folder / "images").mkdir()
        for index in range(count):
            image, rows = draw_mosaic(seed, index)
            name = f"{index:03d}.png"
            Image.fromarray(image).save(folder / "images" / name, compress_level=1, pnginfo=text)
            images.append({"id": index, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for row in rows:
                of = {"id": len(annotations) + 1, "image_id": index, "category_id": 1, "iscrowd": 0}
                annotations.append({**of, **row})
        tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
        (folder / "annotations.json").write_text(json.dumps(tree), encoding="utf-8")


def main() -> None:
    """Draw the mosaics where there are none yet and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("mosaics"), help="folder of the mosaics")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="sprint-dense-n")
    parser.add_argument(
        "--tile",
        nargs="+",
        default=["auto", "640", "128+640"],
        help="sizes of tiles; 128+640 are tiles of both sizes",
    )
    parser.add_argument("--overlap", type=float, default=0.2)
    options = parser.parse_args()
    if not options.out.exists():
        write_mosaics(options.out, options.count, options.seed)
    detector = ds.load(options.model)
    settings: dict[str, Tiling | None] = {"none": None}
    for text in options.tile:
        sizes = tuple(parse_tile_size(size) for size in text.split("+") if size != "auto")
        for whole in (True, False):
            name = f"{text}{'' if whole else ', no whole image'}"
            settings[name] = Tiling(sizes, overlap=options.overlap, whole=whole, batch_size=8)
    table = Table("tiles", *COLUMNS, "s per image")
    for name, tiling in settings.items():
        start = time.perf_counter()
        evaluation = evaluate(detector, str(options.out), tiling=tiling)
        seconds = (time.perf_counter() - start) / evaluation.images
        values = evaluation.summary()
        table.add_row(name, *(f"{100 * (values[key] or 0):.1f}" for key in COLUMNS), f"{seconds:.1f}")
    console.print_table(table)
    print(f"{evaluation.images} images, {evaluation.boxes} boxes; percent")


if __name__ == "__main__":
    main()
