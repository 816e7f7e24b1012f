"""Exports of annotation tools written to disk, as the tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.datasets import noise_image

SIZE = (200, 100)  # width, height of every image


def save(path: Path, seed: int = 0) -> Path:
    """Write an image of noise, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_image(*SIZE, seed=seed).save(path)
    return path


def labelme_shape(label: Any, points: Any, kind: str = "rectangle", **more: Any) -> dict[str, Any]:
    base = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind}
    return {**base, "flags": {}, "mask": None, **more}


def write_labelme(path: Path, shapes: list[Any], image: str | None = None, **more: Any) -> Path:
    """Write the JSON of one image as LabelMe 5 does, and the image where its path stays in the folder."""
    image = f"{path.stem}.png" if image is None else image
    if not image.startswith(("..", "/")):
        save(path.parent / image.replace("\\", "/"), seed=len(path.stem))
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    path.write_text(json.dumps({**tree, "imageHeight": SIZE[1], "imageWidth": SIZE[0], **more}))
    return path


CVAT_LABELS = "".join(
    f"<label><name>{name}</name><color>#fa3253</color><type>{kind}</type><attributes></attributes>{more}</label>"
    for name, kind, more in (
        ("dog", "any", ""),
        ("cat", "any", ""),
        ("pose", "skeleton", ""),
        ("1", "points", "<parent>pose</parent>"),
    )
)


def cvat_image(number: int, name: str, shapes: str, subset: str = "") -> str:
    where = f' subset="{subset}" task_id="1"' if subset else ""
    return f'<image id="{number}" name="{name}"{where} width="200" height="100">{shapes}</image>'


def write_cvat(path: Path, *images: str, labels: str = CVAT_LABELS, doctype: str = "") -> Path:
    """Write the XML of "CVAT for images 1.1"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = f"<meta><task><id>1</id><name>t</name><labels>{labels}</labels></task><dumped>2024</dumped></meta>"
    text = f"<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>"
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{doctype}{text}')
    return path


def region(kind: str, value: dict[str, Any], label: str | list[str] = "dog", **more: Any) -> dict[str, Any]:
    """Return a region of Label Studio."""
    labels = [label] if isinstance(label, str) else label
    base = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0, "id": "XyZ"}
    return {**base, "type": kind, "value": {**value, kind: labels}, "origin": "manual", **more}


def annotation(*result: Any, number: int = 1, **more: Any) -> dict[str, Any]:
    base = {"id": number, "completed_by": 1, "was_cancelled": False, "ground_truth": False}
    return {**base, "result": list(result), "updated_at": f"2024-01-0{number}T10:00:00Z", **more}


def task(image: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    base = {"id": 1, "annotations": list(annotations), "drafts": [], "predictions": []}
    return {**base, "data": {"image": image}, "meta": {}, "project": 1, **more}


def write_tasks(path: Path, *tasks: Any) -> Path:
    """Write Label Studio's JSON export."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tasks))
    return path


def crowdhuman_line(name: str, *boxes: dict[str, Any]) -> str:
    return json.dumps({"ID": name, "gtboxes": list(boxes)}) + "\n"


def person(fbox: list[float], tag: str = "person", ignore: int | None = 0) -> dict[str, Any]:
    x, y, w, h = fbox
    extra = {"box_id": 0, "occ": 0} if ignore is None else {"box_id": 0, "occ": 0, "ignore": ignore}
    return {"fbox": fbox, "hbox": [x, y, w / 3, h / 4], "vbox": [x, y, w, h / 2], "tag": tag, "extra": extra}
