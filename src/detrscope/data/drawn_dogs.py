"""Drawn dogs as a dataset: written to a folder in COCO's layout, or drawn into a cache on first use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from detrscope.config import build, setting, settings
from detrscope.console import log, progress
from detrscope.core.errors import UserError
from detrscope.core.files import cache_folder
from detrscope.data import badge_masks, coco
from detrscope.data.dataset import DetectionDataset
from detrscope.data.part_masks import VALUES_PER_OBJECT, encode_part_mask, write_part_names
from detrscope.data.splits import find_split
from detrscope.data.validation_log import ValidationLog
from detrscope.data.write_coco import atomic_new_folder
from detrscope.synthetic.badges import Badges, paint_badges, place_badges
from detrscope.synthetic.parts import NAMES
from detrscope.synthetic.scene import MAX_SIZE, MIN_SIZE, VERSION, Scene, draw_scene

LAYOUT = "nothing, or options such as count=2000,val=300,seed=0,size=160"
STARTS = {"train": 0, "val": 10_000_000, "test": 20_000_000}  # index of the first image of each split
MAX_COUNT = 10_000_000
DOG = {"id": 1, "name": "dog"}
BADGE_DOGS = ({"id": 1, "name": "red dog"}, {"id": 2, "name": "blue dog"})  # as synthetic.badges.COLOURS
Badge = Literal["none", "class", "swapped", "removed"]
FILE_VERSION = 2  # version of the written files; caches of another version are drawn again
SOFTWARE = "detrscope drawn dogs"  # `Software` text of each PNG file
_DESCRIPTION = '{"info": {"description": "drawn dogs"'  # start of annotations.json


@settings
class Options:
    """Options after `drawn-dogs:`."""

    count: int = setting(2000, "images for training", ge=1, le=MAX_COUNT)
    val: int = setting(300, "images for validation", ge=1, le=MAX_COUNT)
    test: int = setting(300, "images for testing", ge=1, le=MAX_COUNT)
    seed: int = setting(0, "random seed", ge=0)
    size: int = setting(160, "width and height of an image in pixels", ge=MIN_SIZE, le=MAX_SIZE)
    badge: Badge = setting(
        "none",
        "coloured badge on every dog, which alone tells two classes apart: class; the same dogs and classes with the "
        "colours of the other class: swapped; without badges: removed",
    )

    @classmethod
    def parsed(cls, text: str) -> Options:
        """Parse `count=2000,seed=0`; empty for the defaults.

        Raises:
            UserError: an unknown key (the nearest is named) or a wrong value.
        """
        tree: dict[str, str] = {}
        for item in text.split(",") if text not in ("", ".") else ():  # Path("") is "."
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals or not value:
                raise UserError(f"drawn-dogs:{text}: '{item}': expected key=value, such as count=2000")
            if key in tree:
                raise UserError(f"drawn-dogs:{text}: '{key}' is given twice")
            tree[key] = value
        return build(cls, tree, source=f"drawn-dogs:{text}")

    def count_of(self, split: str) -> int:
        """Return the number of images of a split."""
        return {"train": self.count, "val": self.val, "test": self.test}[split]


def splits(options: Path) -> dict[str, int]:
    """Return the index of the first image of each split. `options` is the text after the prefix."""
    Options.parsed(str(options))
    return STARTS


def read_split(
    options: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split from the cache; draw it first where it is missing.

    Raises:
        UserError: an option is wrong, there is no such split, or the cache cannot be written.
    """
    name = find_split(split, STARTS, "drawn-dogs")
    folder = _cached(Options.parsed(str(options)), name)
    annotations, images = folder / "annotations.json", folder / "images"
    return coco.read_json(annotations, validation, name=f"drawn-dogs {name}", images=images, details=details)


def write_drawn(
    out: Path, *, count: int, seed: int = 0, size: int = 160, start: int = 0, badge: Badge = "none"
) -> int:
    """Draw images `start` to `start + count` into a folder: images/, annotations.json, parts/; badges/ with badges.

    Args:
        out: Folder to make; must not exist, or be empty.
        count: Number of images.
        seed: Random seed.
        size: Width and height in pixels.
        start: Index of the first image. The splits of `drawn-dogs:` begin at `STARTS`.
        badge: "class" puts a badge on every dog, whose colour is all that tells the classes `BADGE_DOGS` apart;
            "swapped" has the same dogs with the same classes, and badges of the other colour; "removed" has no badges.

    Returns:
        The number of annotated dogs.

    Raises:
        UserError: a value is out of range, or `out` is in use.
    """
    build(Options, {"count": count, "seed": seed, "size": size, "badge": badge}, source="drawn dogs")
    if start < 0:
        raise UserError(f"start={start}: expected 0 or more")
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    with atomic_new_folder(out) as folder, progress() as bar:
        for name in ("images", "parts") if badge == "none" else ("images", "parts", badge_masks.FOLDER):
            (folder / name).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        task = bar.add_task(f"drawing {out.name}", total=count)
        for index in range(start, start + count):
            scene = draw_scene(seed, index, size)
            name = f"{index:06d}.png"
            badges = None if badge == "none" else place_badges(scene, seed, index)
            pixels = scene.image
            if badges is not None:
                badge_masks.write_badge_mask(folder / badge_masks.FOLDER / name, badges.instance)
                if badge != "removed":
                    pixels = paint_badges(pixels, badges, swapped=badge == "swapped")
            Image.fromarray(pixels).save(folder / "images" / name, compress_level=1, pnginfo=text)
            mask = Image.fromarray(encode_part_mask(scene.parts, scene.instance))
            mask.putpalette(_palette())  # colours for people who open the file
            mask.save(folder / "parts" / name, compress_level=1)
            images.append({"id": index, "file_name": name, "width": size, "height": size})
            annotations += _rows(scene, badges, index, first_id=len(annotations) + 1)
            bar.advance(task)
        tree = {
            "info": {
                "description": "drawn dogs",
                "version": VERSION,
                **{"seed": seed, "size": size, "start": start, "count": count, "badge": badge},
                "libraries": {"numpy": np.__version__, "pillow": PIL.__version__},
            },
            "images": images,
            "annotations": annotations,
            "categories": [DOG] if badge == "none" else [*BADGE_DOGS],
        }
        (folder / "annotations.json").write_text(json.dumps(tree), encoding="utf-8")
        write_part_names(folder / "parts", tuple(NAMES.values()))
    return len(annotations)


def is_drawn_dogs(image: Path | Image.Image) -> bool:
    """Return whether an image is known to be one of these drawings.

    Their PNG files have `SOFTWARE` as their `Software` text. Older drawings have none and are known by the annotation
    file beside their folder. A drawing that was saved again by another program is no longer known.
    """
    if isinstance(image, Image.Image):
        return image.info.get("Software") == SOFTWARE
    try:
        with Image.open(image, formats=["PNG"]) as opened:
            if opened.info.get("Software") == SOFTWARE:
                return True
        with (image.parent.parent / "annotations.json").open(encoding="utf-8") as text:
            return text.read(len(_DESCRIPTION)) == _DESCRIPTION and image.parent.name == "images"
    except (OSError, ValueError, SyntaxError):  # not a PNG, or damaged: the reader of the image reports it
        return False


def _cached(options: Options, split: str) -> Path:
    """Return the folder of a split. It is renamed into place: whole, also where two processes draw at once."""
    count = options.count_of(split)
    name = f"v{VERSION}.{FILE_VERSION}-seed{options.seed}-size{options.size}-{split}-{count}"
    if options.badge != "none":
        name += f"-badge-{options.badge}"
    folder = cache_folder() / "drawn-dogs" / name
    if (folder / "annotations.json").is_file():
        return folder
    log.info("drawing %d images into %s, once", count, folder)
    try:
        drawing = {"seed": options.seed, "size": options.size, "start": STARTS[split]}
        write_drawn(folder, count=count, badge=options.badge, **drawing)
    except (OSError, UserError) as error:
        if (folder / "annotations.json").is_file():  # another process was faster
            return folder
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set DETRSCOPE_CACHE to a folder that can"
        ) from None
    return folder


def _rows(scene: Scene, badges: Badges | None, index: int, first_id: int) -> Iterator[dict[str, Any]]:
    """Yield the COCO annotations of a scene."""
    for dog, (box, visible) in enumerate(zip(scene.boxes_xyxy.tolist(), scene.visible.tolist(), strict=True)):
        x0, y0, x1, y1 = (int(v) for v in box)
        mask = scene.instance == dog + 1
        row = {
            "id": first_id + dog,
            "image_id": index,
            "category_id": DOG["id"] if badges is None else BADGE_DOGS[badges.classes[dog]]["id"],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)},
            "visible": round(visible, 3),
        }
        if badges is not None:
            row["badge_bbox"] = _bounds(badges.instance == dog + 1)
        yield row


def _bounds(mask: np.ndarray) -> list[int]:
    """Return left, top, width and height of the pixels of a mask; zeros of an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Return COCO's run lengths: column by column, the first of pixels outside the mask."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


@cache
def _palette() -> bytes:
    colours = ((214, 160, 110), (240, 210, 120), (200, 80, 80), (250, 160, 190), (90, 160, 220), (60, 90, 200),
               (130, 200, 110), (160, 100, 200))  # fmt: skip
    values = bytearray(768)
    for value in range(1, 256):
        dog, part = divmod(value, VALUES_PER_OBJECT)
        if part in NAMES:
            r, g, b = (round(c * (1 - 0.18 * (dog % 4))) for c in colours[part - 1])
            values[3 * value : 3 * value + 3] = bytes((r, g, b))
    return bytes(values)
