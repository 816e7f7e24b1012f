"""Load torchvision's Faster R-CNN: COCO weights by name, state dicts of torchvision's layout, and files with a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os.path import isfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from detrscope.checkpoints.coco_classes import coco_classes
from detrscope.checkpoints.download import fetch_checkpoint
from detrscope.checkpoints.native import LoadReport, read_checkpoint_card
from detrscope.checkpoints.third_party import ThirdPartyCheckpoint, read_third_party_file
from detrscope.config import build
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.text_files import parse_json
from detrscope.families.keys.shapes import Shapes, compare_shapes, list_keys
from detrscope.inference.faster_rcnn import (
    FAMILY,
    FASTER_RCNNS,
    RATIOS,
    SIDES,
    Body,
    FasterRcnnConfig,
    FasterRcnnVariant,
    build_faster_rcnn,
    faster_rcnn_card,
)

MARK = "roi_heads.box_predictor.cls_score.weight"  # every file of torchvision's Faster R-CNN has it
RPN_MARK = "rpn.head.cls_logits.weight"
SIDE_FILE = ".classes.json"  # in place of the suffix of a weights file without a card
PUBLISHED_EPS = 0.0  # of the frozen norms of the COCO weights; see torchvision's `overwrite_eps`


@dataclass(frozen=True)
class LoadedFasterRcnn:
    """A Faster R-CNN ready for use, on the CPU, in evaluation mode."""

    model: FasterRCNN
    card: ModelCard
    report: LoadReport


def load_faster_rcnn(name_or_path: str | Path, weights: str | Path | None = None) -> LoadedFasterRcnn | None:
    """Load a Faster R-CNN by variant name or weights file; return None where the name or file is another model's.

    Args:
        name_or_path: such as `fasterrcnn-r50-fpn`, or a file: ours with a card, or a state dict of torchvision's
            layout, whose architecture and number of classes are read from its keys and shapes.
        weights: for a variant name: a file in place of torchvision's COCO weights, or "random".

    Raises:
        UserError: a file that cannot be read or does not fit, or COCO weights that cannot be downloaded.
    """
    variant = FASTER_RCNNS.get(str(name_or_path))
    if variant is None:
        return _load_file(Path(name_or_path)) if isfile(name_or_path) else None
    if weights is None:
        if (url := variant.published_url()) is None:
            raise UserError(
                f"{variant.name}: torchvision has no weights of it; give a file, or 'random', as weights"
            )
        file_hash = url.rpartition("-")[2].removesuffix(".pth")
        path = fetch_checkpoint(url, file_hash, instead="give the file in place of the model's name")
        return _of_checkpoint(read_third_party_file(path, (MARK,)), path, variant)
    if str(weights) == "random":
        classes = _numbered_classes(90)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_faster_rcnn(variant.config, len(classes), variant.preprocessing)
        card = faster_rcnn_card(
            variant.name, variant.config, classes, variant.preprocessing, "random weights"
        )
        return LoadedFasterRcnn(model.eval(), card, LoadReport("random weights of seed 0", 0))
    loaded = _load_file(Path(weights), variant)
    if loaded is None:
        raise UserError(f"{weights}: not weights of torchvision's Faster R-CNN: it has no tensor '{MARK}'")
    return loaded


def _load_file(path: Path, variant: FasterRcnnVariant | None = None) -> LoadedFasterRcnn | None:
    card = read_checkpoint_card(path) if path.suffix == ".safetensors" else None
    if card is not None and card.family != FAMILY:
        return None
    checkpoint = read_third_party_file(path, (MARK,))
    if card is None:
        return _of_checkpoint(checkpoint, path, variant) if MARK in checkpoint.state else None
    if variant is not None and card.variant != variant.name:
        raise UserError(f"{path}: the checkpoint is a {card.variant}, expected a {variant.name}")
    config = build(FasterRcnnConfig, card.config, source=f"{path}: model card: config")
    return _loaded(checkpoint, path, config, card)


def _of_checkpoint(
    checkpoint: ThirdPartyCheckpoint, path: Path, variant: FasterRcnnVariant | None
) -> LoadedFasterRcnn:
    """Return the model of a state dict of torchvision's layout, which has no card."""
    shapes = Shapes(checkpoint.state)
    try:
        found = _inferred_config(shapes)
        count = shapes.size(MARK, 0) - 1
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if variant is None:
        variant = _variant_of(path, found)
    elif variant.config.backbone != found.backbone:
        raise UserError(f"{path}: weights of Faster R-CNN with {found.backbone}, expected {variant.name}")
    config = replace(
        found, proposals=variant.config.proposals, proposal_threshold=variant.config.proposal_threshold
    )
    classes, note = _classes_beside(path, count)
    card = faster_rcnn_card(variant.name, config, classes, variant.preprocessing, str(path))
    loaded = _loaded(checkpoint, path, config, card)
    notes = (
        *loaded.report.notes,
        *note,
        f"{count} classes and the background, from the shape of the class head",
    )
    return replace(loaded, report=replace(loaded.report, notes=notes))


def _loaded(
    checkpoint: ThirdPartyCheckpoint, path: Path, config: FasterRcnnConfig, card: ModelCard
) -> LoadedFasterRcnn:
    """Return the model with the tensors of a file, all of them and no others."""
    model = build_faster_rcnn(config, len(card.classes), card.preprocessing)
    state = _renamed(checkpoint.state, model.state_dict())
    if problems := compare_shapes(state, model.state_dict()):
        raise UserError(f"{path}: does not fit {card.variant}: {list_keys(problems, 10)}")
    model.load_state_dict(state, strict=False)  # but for the counters of norms, which frozen ones lack
    report = LoadReport(str(path), len(state), skipped=checkpoint.skipped, notes=checkpoint.notes)
    return LoadedFasterRcnn(model.eval(), card, report)


def _renamed(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under today's names: pyramid and RPN had others in the published files."""
    renamed = {}
    for key, tensor in state.items():
        parts = key.rpartition(".")
        for new in (key, f"{parts[0]}.0.{parts[2]}", f"{parts[0]}.0.0.{parts[2]}"):
            if new in expected:
                renamed[new] = tensor
                break
        else:
            renamed[key] = tensor
    return renamed


def _inferred_config(shapes: Shapes) -> FasterRcnnConfig:
    """Return the settings that the shapes of a state dict tell.

    Raises:
        UserError: no architecture that is known here.
    """
    if shapes.has("backbone.body.0.0.weight"):
        return FasterRcnnConfig(backbone="mobilenet-v3-large")
    body = shapes.resnet("backbone.body")
    frozen = not shapes.has("backbone.body.bn1.num_batches_tracked")
    if shapes.has("rpn.head.conv.1.0.weight"):
        if body != "resnet50":
            raise UserError(f"the newer heads of Faster R-CNN on {body} are not known; expected resnet50")
        return FasterRcnnConfig(backbone="resnet50-v2")
    names = [f"backbone.fpn.inner_blocks.{i}{end}" for i in range(4) for end in (".0.weight", ".weight")]
    widths = [shapes.size(name, 1) for name in names if shapes.has(name)]
    narrowest = 64 if body in ("resnet18", "resnet34") else 256
    stages = tuple(s for s in (1, 2, 3, 4) if narrowest * 2 ** (s - 1) in widths)
    if len(stages) != 4 or shapes.size(RPN_MARK, 0) != len(RATIOS):
        raise UserError(
            f"a pyramid of ResNet stages {list(stages)} with {shapes.size(RPN_MARK, 0)} anchors at each place: the "
            "sizes of its anchors cannot be told from the weights; only torchvision's own (4 stages, 3 anchors) can"
        )
    width = shapes.size("roi_heads.box_head.fc6.weight", 0)
    return FasterRcnnConfig(
        backbone=cast(Body, body), representation=width, norm_eps=PUBLISHED_EPS if frozen else None
    )


def _variant_of(path: Path, found: FasterRcnnConfig) -> FasterRcnnVariant:
    """Return the variant of a file: by torchvision's file name, else the first with its backbone."""
    fitting = [v for v in FASTER_RCNNS.values() if v.config.backbone == found.backbone]
    if not fitting:
        return FasterRcnnVariant(f"fasterrcnn-{found.backbone}-fpn", found, SIDES)
    return next((v for v in fitting if (url := v.published_url()) and path.name in url), fitting[0])


def _numbered_classes(count: int) -> ClassTable:
    """Return COCO's classes for 90, else numbers; the ids are torchvision's labels."""
    coco = coco_classes(count + 1) if count == 90 else None
    if coco is not None:
        return ClassTable(coco.ids[1:], coco.names[1:])
    return ClassTable(tuple(range(1, count + 1)), tuple(f"class {i}" for i in range(1, count + 1)))


def _classes_beside(path: Path, count: int) -> tuple[ClassTable, tuple[str, ...]]:
    """Return the classes of a file without a card, from the file beside it if there is one, and remarks.

    Raises:
        UserError: the file beside it cannot be read or has another number of classes.
    """
    side = path.with_suffix(SIDE_FILE)
    if not isfile(side):
        if count == 90:
            return _numbered_classes(count), ("classes of COCO",)
        return _numbered_classes(count), (
            f"its classes have no names and are called class 1 to class {count}; list them in {side}",
        )
    tree = parse_json(side.read_text(encoding="utf-8"), str(side))
    rows = tree.get("categories") if isinstance(tree, dict) else tree
    valid = isinstance(rows, list) and all(
        isinstance(r, dict) and type(r.get("id")) is int and isinstance(r.get("name"), str) for r in rows
    )
    if not valid or not isinstance(rows, list):
        raise UserError(
            f'{side}: expected a list of {{"id": 7, "name": "dog"}}, in the order of the labels 1, 2, ...; '
            f"found {json.dumps(tree)[:60]}"
        )
    if len(rows) != count:
        raise UserError(f"{side}: lists {len(rows)} classes, but {path} has {count} and the background")
    return ClassTable.from_json([{"id": r["id"], "name": r["name"]} for r in rows]), (
        f"class names of {side}",
    )
