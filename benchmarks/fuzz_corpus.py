"""Small valid inputs of each format, from which the fuzzer begins."""

from __future__ import annotations

import argparse
import functools
import io
import json
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as rle
from PIL import Image

YOLO_YAML = b"path: .\ntrain: train/images\nnames:\n  0: dog\n  1: cat\n"
YOLO_LABELS = b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.4 0.1 0.4 0.4\n"
BOX = [4.0, 5.0, 20.0, 10.0]
# Parameters of a file that make Pillow write it differently: format, mode, options.
_IMAGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    *(
        ("TIFF", "RGB", {"compression": c})
        for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ),
    ("TIFF", "I;16", {}),
    ("TIFF", "F", {}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("DIB", "RGB", {}),
    ("PCX", "RGB", {}),
    *(("PPM", mode, {}) for mode in ("1", "L", "RGB")),
    ("SGI", "RGB", {}),
    ("TGA", "RGBA", {"compression": "tga_rle"}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("JPEG2000", "RGB", {}),
    ("AVIF", "RGB", {}),
    ("QOI", "RGB", {}),
    ("MPO", "RGB", {}),
)


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def images() -> list[bytes]:
    """Return a small image of each format and mode, one with an EXIF turn."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 4), dtype=np.uint8)
    files = []
    for name, mode, options in _IMAGES:
        stream = io.BytesIO()
        whole = Image.fromarray(pixels)
        image = (
            whole.convert("L").convert(mode)
            if mode in ("I;16", "F", "LA")
            else whole.convert("RGB").convert(mode)
        )
        try:
            image.save(stream, name, **options)
        except (KeyError, OSError, ValueError):  # this build of Pillow does not write it
            continue
        files.append(stream.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(pixels[..., :3]).save(stream, "JPEG", exif=exif)
    return [*files, stream.getvalue()]


def coco() -> list[bytes]:
    """Return COCO's JSON with polygons, run lengths, crowds, ids as text, and LVIS's fields."""
    rows = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 200, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 7, "segmentation": [[1, 2, 3, 4, 5, 60]], "iscrowd": "0"},
        {
            "id": 3,
            "image_id": 2,
            "category_id": 1,
            "segmentation": {"size": [48, 64], "counts": [0, 9, 3063]},
        },
        {"id": "4", "image_id": 2, "category_id": 7, "bbox": BOX, "iscrowd": 1, "area": None},
    ]
    files = [
        {"id": 1, "file_name": "1.png", "width": 64, "height": 48},
        {"id": 2, "coco_url": "http://images.cocodataset.org/train/2.png", "neg_category_ids": [7]},
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 7, "name": "cat", "frequency": "r", "supercategory": "x"}]
    tree = {
        "info": {},
        "licenses": [{"id": 1}],
        "images": files,
        "annotations": rows,
        "categories": categories,
    }
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[5:20, 7:30] = 1
    packed = {"size": [48, 64], "counts": rle.encode(mask)["counts"].decode()}
    masked = {
        **tree,
        "annotations": [{**rows[0], "segmentation": packed}, {**rows[1], "segmentation": packed}],
    }
    return [_json(tree), _json(masked), _json({"images": files, "categories": categories})]


def voc() -> list[bytes]:
    """Return VOC's XML."""
    item = (
        "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>30</xmax>"
        "<ymax>20</ymax></bndbox></object>"
    )
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    source = "<source><annotation>PASCAL VOC2007</annotation></source>"
    pages = (item.format("dog", 0) + item.format("cat", 1), source + item.format("dog", "0"))
    return [f"<annotation><filename>1.png</filename>{size}{page}</annotation>".encode() for page in pages]


def yolo() -> list[bytes]:
    """Return a data.yaml, labels, an obj.data and a list of images, each behind the byte that says which it is."""
    more = b"path: .\ntrain: [train/images]\nval: train/images\nnames: [dog, cat]\nkpt_shape: [2, 3]\nnc: 2\n"
    lists = (
        b"classes = 2\nnames = data.yaml\ntrain = train.txt\n",
        b"train/images/1.png\ndata/train/images/1.png\n",
    )
    return [b"\0" + YOLO_YAML, b"\0" + more, b"\1" + YOLO_LABELS, b"\2" + lists[0], b"\3" + lists[1]]


def labelme() -> list[bytes]:
    """Return LabelMe's JSON with every type of shape."""
    shapes = [
        {
            "label": "dog",
            "points": [[4, 5], [24, 15]],
            "shape_type": "rectangle",
            "group_id": None,
            "flags": {},
        },
        {"label": "dog", "points": [[4, 5], [24, 15], [9, 9]], "shape_type": "polygon", "group_id": 1},
        {"label": "dog", "points": [[4, 5], [24, 15], [9, 1]], "shape_type": "polygon", "group_id": 1},
        {"label": "cat", "points": [[14, 15], [24, 15]], "shape_type": "circle", "difficult": True},
        {"label": "cat", "points": [[14, 15], [24, 25]], "shape_type": "mask", "mask": "iVBORw0KGgo="},
        {"label": "cat", "points": [[14, 15]], "shape_type": "point"},
    ]
    tree = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "1.png", "imageData": None}
    return [
        _json({**tree, "imageHeight": 48, "imageWidth": 64}),
        _json({"shapes": shapes[:1], "imagePath": "..\\1.png"}),
    ]


def cvat() -> list[bytes]:
    """Return "CVAT for images 1.1", of a task and of a project with subsets."""
    labels = "<labels><label><name>dog</name><type>any</type></label><label><name>cat</name></label></labels>"
    shapes = (
        '<box label="dog" xtl="4" ytl="5" xbr="24" ybr="15" rotation="30"><attribute name="x">1</attribute></box>'
        '<polygon label="cat" points="1,1;20,1;10,20"/><ellipse label="cat" cx="20" cy="20" rx="5" ry="9"/>'
        '<mask label="cat" rle="1, 2, 2, 1" left="10" top="9" width="3" height="2"/><tag label="dog"/>'
        '<polyline label="dog" points="1,1;2,2"/>'
    )
    image = f'<image id="0" name="1.png"{{}} width="64" height="48">{shapes}</image>'
    pages = (image.format(""), image.format(' subset="train"') + image.format(' subset="val"'))
    return [f"<annotations><meta><task>{labels}</task></meta>{page}</annotations>".encode() for page in pages]


def label_studio() -> list[bytes]:
    """Return Label Studio's JSON with every type of region, and several annotations of a task."""
    base = {"original_width": 64, "original_height": 48, "image_rotation": 0, "id": "a"}
    box = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}
    round_ = {"x": 9, "y": 9, "radiusX": 2, "radiusY": 3}
    result = [
        {**base, "type": "rectanglelabels", "value": {**box, "rectanglelabels": ["dog"]}},
        {
            **base,
            "type": "rectanglelabels",
            "value": {**box, "rotation": 20, "rectanglelabels": ["dog", "cat"]},
        },
        {
            **base,
            "type": "polygonlabels",
            "value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["cat"]},
        },
        {
            **base,
            "type": "ellipselabels",
            "value": {**round_, "ellipselabels": ["cat"]},
        },
        {**base, "type": "rectangle", "value": box, "id": "q"},
        {**base, "type": "labels", "value": {**box, "labels": ["cow"]}, "id": "q"},
        {**base, "type": "choices", "value": {"choices": ["good"]}},
    ]
    rows = [
        {
            "id": 1,
            "result": result,
            "was_cancelled": False,
            "ground_truth": False,
            "updated_at": "2024-01-01",
        },
        {
            "id": 2,
            "result": result[:1],
            "was_cancelled": True,
            "ground_truth": False,
            "updated_at": "2024-01-02",
        },
        {
            "id": 3,
            "result": result[1:3],
            "was_cancelled": False,
            "ground_truth": True,
            "updated_at": "2024-01-02",
        },
    ]
    names = ("/data/upload/1/2a3b4c5d-1.png", "/data/local-files/?d=x/1.png", "https://host/1.png?a=1")
    tasks = [{"id": i, "annotations": rows[: i + 1], "data": {"image": name}} for i, name in enumerate(names)]
    return [_json(tasks), _json([{"completions": rows, "data": {"x": "1.png"}, "file_upload": "1.png"}])]


def crowdhuman() -> list[bytes]:
    """Return lines of CrowdHuman."""
    boxes = [
        {
            "tag": "person",
            "fbox": BOX,
            "hbox": BOX,
            "vbox": BOX,
            "extra": {"box_id": 0, "occ": 0, "ignore": 1},
        },
        {"tag": "mask", "fbox": BOX, "extra": {"ignore": 1}},
        {"tag": "person", "fbox": [-4, 5, 20, 10], "hbox": BOX, "vbox": BOX, "head_attr": {"ignore": 0}},
    ]
    return [_json({"ID": "1", "gtboxes": boxes}) + b"\n" + _json({"ID": "2", "gtboxes": boxes[:1]}) + b"\n"]


def bare() -> list[bytes]:
    """Return annotations of every format behind the byte that says how their file ends."""
    json_files = (*coco(), *label_studio(), *labelme())
    kinds = ((0, json_files), (1, (*voc(), *cvat())), (2, crowdhuman()), (3, (YOLO_YAML,)))
    return [bytes([kind]) + data for kind, files in kinds for data in files]


def results() -> list[bytes]:
    """Return results in COCO's format."""
    row = {"image_id": 1, "category_id": 7, "bbox": BOX, "score": 0.5}
    return [_json([row, {**row, "score": "0.25"}])]


@functools.cache
def _tiny_checkpoint() -> bytes:
    from detrscope.checkpoints.load import load_random_model
    from detrscope.checkpoints.native import save_checkpoint
    from detrscope.core.classes import ClassTable

    loaded = load_random_model("sprint-dense-n", _TINY, ClassTable((1, 900), ("dog", "cat")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_checkpoint(path, loaded.model, loaded.card)
        return path.read_bytes()


_STACK = {"layers": 1, "heads": 2, "feedforward": 16}
_TINY: dict[str, Any] = {
    "width": 16,
    "queries": 3,
    "backbone": {"stem": 8, "widths": (8, 8, 16), "depths": (1, 1, 1)},
    "encoder": _STACK,
    "decoder": _STACK,
}


def _parts(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]


def safetensors_parts() -> tuple[bytes, bytes]:
    """Return header and tensors of a checkpoint of a tiny model."""
    return _parts(_tiny_checkpoint())


def safetensors() -> list[bytes]:
    """Return checkpoints: whole (0), or the header alone (1); with a card, and of other people's weights."""
    import torch
    from safetensors.torch import save

    others = save({"class_embed.weight": torch.zeros(3, 4), "a.b": torch.zeros(2, dtype=torch.float16)})
    header = json.loads(safetensors_parts()[0])
    card = json.loads(header["__metadata__"]["detrscope"])
    small = {key: value for key, value in header.items() if key == "__metadata__"}
    return [
        b"\0" + others,
        b"\0" + _tiny_checkpoint(),
        b"\1" + _json(header),
        b"\1" + _json(small),
        b"\2" + _json(card),
    ]


def cards() -> list[bytes]:
    """Return the card of a tiny model."""
    return [json.loads(safetensors_parts()[0])["__metadata__"]["detrscope"].encode()]


def pickles() -> list[bytes]:
    """Return the pickles in checkpoints (1), and whole files (0), of both of torch's formats."""
    import torch

    state = {"class_embed.weight": torch.zeros(3, 4), "transformer.x": torch.ones(2)}
    contents: list[Any] = [
        state,
        {"model": state, "args": argparse.Namespace(nheads=8, dilation=False), "epoch": 3},
        {
            "state_dict": {f"module.{k}": v for k, v in state.items()},
            "best": np.float64(0.5),
            "path": Path("a"),
        },
    ]
    files = []
    for content in contents:
        stream = io.BytesIO()
        torch.save(content, stream)
        with zipfile.ZipFile(stream) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            files += [b"\1" + archive.read(name), b"\0" + stream.getvalue()]
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    # A call of a function, which must be refused before it is made.
    call = b"cos\nsystem\n(S'touch executed'\ntR."
    return [*files, b"\0" + legacy.getvalue(), b"\0" + pickle.dumps({"a": 1}), b"\1" + call, b"\0" + call]


def hugging_face() -> list[bytes]:
    """Return configs of models (0) and of processors (1)."""
    config = {
        "model_type": "detr",
        "d_model": 256,
        "encoder_attention_heads": 8,
        "decoder_attention_heads": 8,
        "dilation": False,
        "num_queries": 100,
        "backbone_config": {"model_type": "resnet", "out_features": ["stage4"]},
        "id2label": {"0": "dog", "1": "cat"},
    }
    deformable = {**config, "model_type": "deformable_detr", "encoder_n_points": 4, "with_box_refine": True}
    processor = {
        "image_processor_type": "DetrImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 800, "longest_edge": 1333},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": True,
        "resample": 2,
    }
    inner = {"image_processor": {**processor, "size": {"height": 640, "width": 640}}}
    return [b"\0" + _json(config), b"\0" + _json(deformable), b"\1" + _json(processor), b"\1" + _json(inner)]


@functools.cache
def _tiny_trace() -> bytes:
    from dataclasses import replace

    import torch

    from detrscope.checkpoints.load import load_random_model
    from detrscope.core.classes import ClassTable
    from detrscope.core.edits import Gain
    from detrscope.inference.detector import Detector
    from detrscope.inference.torch_engine import TorchEngine

    torch.manual_seed(0)
    loaded = load_random_model(
        "sprint-deformable-n", {**_TINY, "decoder": {**_STACK, "heads": 4}}, ClassTable((1,), ("dog",))
    )
    card = replace(loaded.card, preprocessing=replace(loaded.card.preprocessing, short_side=32, long_side=32))
    detector = Detector(TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.float32), card)
    picture = torch.randint(0, 255, (3, 24, 32), dtype=torch.uint8)
    trace = detector.trace(picture, edits=[Gain("decoder.0.self", heads=(0,))])
    with tempfile.TemporaryDirectory() as folder:
        return Path(trace.save(Path(folder) / "a.trace")).read_bytes()


def trace_parts() -> tuple[bytes, bytes]:
    """Return header and tensors of a small trace."""
    return _parts(_tiny_trace())


def traces() -> list[bytes]:
    """Return a small trace (0), and what its header says (1)."""
    tree = json.loads(trace_parts()[0])["__metadata__"]["detrscope.trace"]
    return [b"\0" + _tiny_trace(), b"\1" + tree.encode()]


def configs() -> list[bytes]:
    """Return the shipped presets, and YAML with aliases, merge keys and dates."""
    from importlib import resources

    shipped = [
        p.read_bytes()
        for p in sorted(resources.files("detrscope.presets").iterdir(), key=lambda p: p.name)
        if p.name.endswith(".yaml")
    ]
    odd = b"data: &a\n  source: coco:x\ntrain:\n  <<: *a\n  epochs: 2024-01-01\nmodel: {variant: detr-r50}\n"
    return [*shipped, odd]


def edits() -> list[bytes]:
    """Return edits as text (0) and as JSON (1)."""
    texts = (
        *("decoder.*.cross: heads 2,3 x0", "a:head 1 query 0-3,7 levels -1 x2", "a: points 1, 2 x0"),
        *("encoder.*.self: hide region 120,80,300,260.5", "a: favor keys 5 -2.5", "120,80,300,260.5"),
    )
    from detrscope.core.edit_file import edits_to_json
    from detrscope.core.edit_text import parse_edit

    tree = edits_to_json([parse_edit(text) for text in texts[:-1]])
    return [*(b"\0" + text.encode() for text in texts), b"\1" + _json(tree)]


def drawn() -> list[bytes]:
    """Return options of drawn dogs."""
    return [b"count=2000,val=300,seed=0,size=160", b"size=64"]
