"""What the fuzzer calls: each reader of strangers' files, with small valid inputs to begin from."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import fuzz_corpus as corpus
from benchmarks.fuzz_mutators import (
    Mutator,
    mutate_behind_mode,
    mutate_json,
    mutate_json_lines,
    mutate_text,
    mutate_xml,
    no_structure,
)
from detrscope.core.errors import UserError


class Target(NamedTuple):
    """One reader: what is called with an input and a folder of its own, and where inputs come from."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    mutate: Mutator
    share: int  # of a thousand executions
    prepare: Callable[[Path], None] = lambda folder: None
    instrumented: tuple[str, ...] = ("detrscope.data", "detrscope.core")


def _write(path: Path, data: bytes) -> Path:
    # Not through a temporary file: these are inputs, on a disk in memory where there is one.
    with path.open("wb") as file:
        file.write(data)
    return path


def _with_image(*names: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / name)

    return prepare


def _open(source: str | Path, data: bytes) -> None:
    """Read a dataset as the check does, with everything that a conversion keeps; sometimes as training does."""
    from detrscope.data.coco_masks import decode_mask
    from detrscope.data.open_dataset import read_dataset
    from detrscope.data.validation_log import ValidationLog

    if len(data) % 4 == 0:
        read_dataset(source, "train", ValidationLog("train"))
        return
    dataset = read_dataset(source, "train", ValidationLog("train", strict=False), details=True)
    dataset.coco_json()
    for image in dataset.images:
        for a in dataset.annotations[image.id]:
            if a.segmentation and image.width * image.height < 1 << 16:
                decode_mask(a.segmentation, image.height, image.width)


def _image(data: bytes, folder: Path) -> None:
    from detrscope.data.image_header import read_size
    from detrscope.data.image_reader import read_image

    path = _write(folder / "a.img", data)
    read_size(path)
    read_image(path)


def _coco(data: bytes, folder: Path) -> None:
    _write(folder / "annotations" / "instances_train.json", data)
    _open(f"coco:{folder}", data)


def _voc(data: bytes, folder: Path) -> None:
    _write(folder / "train" / "1.xml", data)
    _open(f"voc:{folder}", data)


def _yolo(data: bytes, folder: Path) -> None:
    kind, rest = data[:1] or b"\0", data[1:]
    whole = {"data.yaml": corpus.YOLO_YAML, "train/labels/1.txt": corpus.YOLO_LABELS}
    names = (*whole, "obj.data", "train.txt")
    changed = names[kind[0] % len(names)]
    for name in names:
        if name in whole or name == changed:
            _write(folder / name, rest if name == changed else whole[name])
        else:
            (folder / name).unlink(missing_ok=True)
    if changed == "obj.data":
        (folder / "data.yaml").unlink()
    _open(f"yolo:{folder}", data)


def _labelme(data: bytes, folder: Path) -> None:
    _write(folder / "1.json", data)
    _open(f"labelme:{folder}", data)


def _cvat(data: bytes, folder: Path) -> None:
    _open(f"cvat:{_write(folder / 'annotations.xml', data)}", data)


def _label_studio(data: bytes, folder: Path) -> None:
    _open(f"labelstudio:{_write(folder / 'tasks.json', data)}", data)


def _crowdhuman(data: bytes, folder: Path) -> None:
    _open(f"crowdhuman:{_write(folder / 'annotation_train.odgt', data)}", data)


def _bare(data: bytes, folder: Path) -> None:
    """Recognise a file or a folder that says nothing of its format."""
    suffix = (".json", ".xml", ".odgt", ".yaml")[(data or b"\0")[0] % 4]
    for old in folder.glob("annotations.*"):
        old.unlink()
    path = _write(folder / f"annotations{suffix}", data[1:])
    for source in (path, folder):
        try:
            _open(source, data)
        except UserError:
            if source is folder:
                raise


def _results(data: bytes, folder: Path) -> None:
    from detrscope.evaluation.results_file import read_results

    read_results(_write(folder / "results.json", data))


def _safetensors(data: bytes, folder: Path) -> None:
    """Read a file of weights, and one of which only the header was changed."""
    from detrscope.checkpoints.native import load_checkpoint, read_checkpoint_card
    from detrscope.checkpoints.third_party import read_third_party_file

    path = folder / "a.safetensors"
    if data[:1] == b"\1":  # the header as JSON, with the tensors of a real file behind it
        header = data[1:]
        _write(path, len(header).to_bytes(8, "little") + header + _tensors())
    else:
        _write(path, data[1:])
    card = read_checkpoint_card(path)
    if card is None:
        read_third_party_file(path)
    else:
        load_checkpoint(path)


@functools.cache
def _tensors() -> bytes:
    return corpus.safetensors_parts()[1]


def _pickle(data: bytes, folder: Path) -> None:
    """Read a pickle in torch's archive, or the archive itself."""
    from detrscope.checkpoints.third_party import read_third_party_file

    path = folder / "a.pth"
    if data[:1] == b"\1":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", data[1:])
            archive.writestr("a/version", "3\n")
            for number in range(3):
                archive.writestr(f"a/data/{number}", b"\0" * 64)
    else:
        _write(path, data[1:])
    read_third_party_file(path)


def _card(data: bytes, folder: Path) -> None:
    from detrscope.core.model_card import ModelCard
    from detrscope.core.text_files import parse_json

    ModelCard.from_json(parse_json(data, "card"), "card").to_json()


def _hugging_face(data: bytes, folder: Path) -> None:
    from detrscope.checkpoints.hugging_face_config import (
        hugging_face_labels,
        read_hugging_face_config,
    )
    from detrscope.checkpoints.hugging_face_processor import read_processor

    path = _write(folder / "config.json", data[1:])
    if data[:1] == b"\1":
        read_processor(path)
    else:
        config = read_hugging_face_config(path)
        config.settings()
        hugging_face_labels(config, path)


def _trace(data: bytes, folder: Path) -> None:
    """Load a trace, or one of which only the header was changed, and ask what a page asks first."""
    from detrscope.core.trace_file import load_trace
    from detrscope.trace_interface import Trace

    path = folder / "a.trace"
    if data[:1] == b"\1":
        header, tensors = corpus.trace_parts()
        tree = json.loads(header)
        try:
            tree["__metadata__"]["detrscope.trace"] = data[1:].decode()
        except UnicodeDecodeError:
            return
        text = json.dumps(tree).encode()
        _write(path, len(text).to_bytes(8, "little") + text + tensors)
    else:
        _write(path, data[1:])
    load_trace(path)
    trace = Trace.load(path)
    trace.describe()
    trace.detections(0.0)


def _config(data: bytes, folder: Path) -> None:
    from detrscope.training.config import resolve_training_config

    resolve_training_config(file=_write(folder / "a.yaml", data))


def _edits(data: bytes, folder: Path) -> None:
    from detrscope.core.edit_file import edits_from_json
    from detrscope.core.edit_text import parse_edit, parse_region
    from detrscope.core.text_files import parse_json

    if data[:1] == b"\1":
        edits_from_json(parse_json(data[1:], "edits"), "edits")
        return
    text = data[1:].decode(errors="replace")
    try:
        parse_region(text, "region")
    except UserError:
        edit = parse_edit(text)
        assert parse_edit(edit.describe()) == edit, "an edit's text is another edit"


def _drawn(data: bytes, folder: Path) -> None:
    """Parse the options of drawn dogs, without drawing them."""
    from detrscope.data.drawn_dogs import Options

    Options.parsed(data.decode(errors="replace"))


_CHECKPOINTS = ("detrscope.data", "detrscope.core", "detrscope.checkpoints", "detrscope.config")
TARGETS: dict[str, Target] = {
    "image": Target(_image, corpus.images, no_structure, 80, instrumented=("detrscope.data", "PIL")),
    "coco": Target(_coco, corpus.coco, mutate_json, 90, _with_image("train/1.png", "annotations/2.png")),
    "voc": Target(_voc, corpus.voc, mutate_xml, 70, _with_image("train/1.png")),
    "yolo": Target(
        _yolo,
        corpus.yolo,
        mutate_behind_mode((mutate_text,)),
        70,
        _with_image("train/images/1.png", "train/labels/x.png"),
    ),
    "labelme": Target(_labelme, corpus.labelme, mutate_json, 90, _with_image("1.png")),
    "cvat": Target(_cvat, corpus.cvat, mutate_xml, 70, _with_image("images/1.png")),
    "labelstudio": Target(_label_studio, corpus.label_studio, mutate_json, 90, _with_image("1.png")),
    "crowdhuman": Target(_crowdhuman, corpus.crowdhuman, mutate_json_lines, 90, _with_image("Images/1.jpg")),
    "bare": Target(
        _bare,
        corpus.bare,
        mutate_behind_mode((mutate_json, mutate_xml, mutate_json_lines, mutate_text)),
        20,
        _with_image("images/1.png"),
    ),
    "results": Target(
        _results,
        corpus.results,
        mutate_json,
        50,
        instrumented=("detrscope.evaluation.results_file", "detrscope.core"),
    ),
    "safetensors": Target(
        _safetensors,
        corpus.safetensors,
        mutate_behind_mode((no_structure, mutate_json)),
        20,
        instrumented=_CHECKPOINTS,
    ),
    "pickle": Target(
        _pickle,
        corpus.pickles,
        no_structure,
        40,
        instrumented=_CHECKPOINTS,
    ),
    "card": Target(_card, corpus.cards, mutate_json, 80),
    "hugging-face": Target(
        _hugging_face, corpus.hugging_face, mutate_behind_mode((mutate_json,)), 40, instrumented=_CHECKPOINTS
    ),
    "trace": Target(_trace, corpus.traces, mutate_behind_mode((no_structure, mutate_json)), 20),
    "config": Target(
        _config, corpus.configs, mutate_text, 10, instrumented=("detrscope.config", "detrscope.core", "yaml")
    ),
    "edits": Target(_edits, corpus.edits, mutate_behind_mode((mutate_text, mutate_json)), 100),
    "drawn-dogs": Target(_drawn, corpus.drawn, mutate_text, 30),
}
