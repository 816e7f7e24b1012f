"""From a name to a model: variants, our checkpoints, run folders, published files, Hugging Face folders and ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from detrscope.blocks.backbone import ResNetBackbone, SlimBackbone
from detrscope.blocks.path import DetectionTransformer
from detrscope.config import build as build_config
from detrscope.config import to_tree
from detrscope.core.card import ModelCard
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError, nearest
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import VARIANTS, family_of, resolve
from detrscope.families.checkpoint import build_from_card, load_checkpoint, read_card
from detrscope.families.coco_classes import coco_classes
from detrscope.families.download import fetch
from detrscope.families.foreign import Foreign, classes_of, read_file, read_folder, recognise, settings_of
from detrscope.families.layouts import Shapes, compare
from detrscope.families.variant import Family, OnHub

CLASS_HEADS = re.compile(r".*(class_heads?|label_embedding)\..*")
RUN_CHECKPOINTS = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's parts."""

    source: str
    loaded: int  # tensors
    reset: tuple[str, ...] = ()  # our names, left random
    skipped: tuple[str, ...] = ()  # the file's names, not used

    def lines(self) -> list[str]:
        """For the log: what was loaded, reset and skipped."""
        lines = [f"{self.source}: loaded {self.loaded} tensors"]
        if self.reset:
            lines.append(f"reset, to be learned anew: {', '.join(self.reset)}")
        if self.skipped:
            lines.append(f"skipped: {', '.join(self.skipped)}")
        return lines


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, on the CPU, in evaluation mode."""

    model: DetectionTransformer
    card: ModelCard
    report: LoadReport


def load_model(
    name_or_path: str | Path, *, weights: str | Path | None = None, classes: ClassTable | None = None
) -> Loaded:
    """A model by variant name, checkpoint, run folder, Hugging Face folder or id.

    Args:
        name_or_path: `detr-r50`, `run/best.safetensors`, `run/`, `detr-r50-e632da11.pth`, a folder with config.json,
            or an id such as `facebook/detr-resnet-50`.
        weights: for a variant name: a file of its weights instead of the published one, or "random".
        classes: the classes wanted; where they are not the checkpoint's own, the class head is reset.

    Raises:
        UserError: unknown name, unreadable file, or weights that do not fit; every key that is missing, left over or
            of another shape is listed.
    """
    name = str(name_or_path)
    path = Path(name_or_path)
    if name in VARIANTS:
        loaded = _load_variant(name, weights)
    elif weights is not None:
        raise UserError(f"--weights goes with a variant name; {nearest(name, VARIANTS)}")
    elif path.is_dir():
        loaded = _load_folder(path)
    elif path.is_file():
        loaded = _load_file(path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.suffix:
        loaded = _adopt(read_folder(_hub_snapshot(name)), source=name)
    else:
        kind = "no such file" if path.suffix or "/" in name else "not a model known here"
        raise UserError(f"model '{name}': {kind}; {nearest(name, VARIANTS)}")
    return loaded if classes is None or classes == loaded.card.classes else with_classes(loaded, classes)


def with_classes(loaded: Loaded, classes: ClassTable) -> Loaded:
    """The same model for other classes: all that fits is kept, the class head is reset."""
    card = ModelCard(
        **{
            **vars(loaded.card),
            "classes": classes,
            "metrics": {},
            "source": f"fine-tuned from {loaded.report.source}",
        }
    )
    model = build_from_card(card)
    fresh = model.state_dict()
    old = loaded.model.state_dict()
    reset = tuple(key for key in fresh if CLASS_HEADS.fullmatch(key))
    model.load_state_dict({key: fresh[key] if key in reset else old[key] for key in fresh})
    report = LoadReport(loaded.report.source, len(fresh) - len(reset), reset, loaded.report.skipped)
    return Loaded(model.eval(), card, report)


def random_model(
    variant: str,
    overrides: Mapping[str, Any],
    classes: ClassTable,
    preprocessing: Preprocessing | None = None,
) -> Loaded:
    """A variant with random weights and settings laid over it, for training from scratch.

    Raises:
        UserError: unknown variant or setting.
    """
    family = family_of(variant)
    base = VARIANTS[variant]
    config = resolve(variant, overrides)
    model = family.build(config, len(classes))
    card = ModelCard(
        family.name,
        variant,
        to_tree(config),
        classes,
        preprocessing or base.preprocessing,
        model.scoring,
        "random weights",
    )
    return Loaded(model.eval(), card, LoadReport("random weights", 0))


def load_backbone(model: DetectionTransformer, weights: str) -> LoadReport:
    """Classification weights into the backbone.

    Args:
        model: the model to change.
        weights: "imagenet" (torchvision's or timm's, downloaded) or a file with a torchvision state dict.

    Raises:
        UserError: they cannot be had or do not fit.
    """
    if isinstance(model.backbone, SlimBackbone):
        raise UserError(f"backbone weights '{weights}': this backbone has none; use backbone_weights none")
    body = model.backbone.body
    wanted = body.state_dict()
    if weights == "imagenet":
        state, source = _imagenet(model)
    else:
        state, source = dict(read_file(Path(weights)).state), weights
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    drop = {key for key in state if key.endswith("num_batches_tracked") and key not in wanted}
    state = {key: value for key, value in state.items() if key not in drop}
    if problems := compare(state, wanted):
        raise UserError(f"{source}: does not fit the backbone: {'; '.join(problems[:10])}")
    body.load_state_dict(state, strict=False)
    return LoadReport(source, len(state))


def _imagenet(model: DetectionTransformer) -> tuple[dict[str, Tensor], str]:
    import torchvision

    backbone = model.backbone
    if not isinstance(backbone, ResNetBackbone):
        raise UserError("backbone weights 'imagenet' are for ResNets; for timm give a file of its weights")
    prefixed = {f"body.{key}": tensor for key, tensor in backbone.body.state_dict().items()}
    name = Shapes(prefixed).resnet("body")
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    path = fetch(url, url.rsplit("-", 1)[-1].removesuffix(".pth"))
    return dict(read_file(path).state), path.name


def _load_variant(name: str, weights: str | Path | None) -> Loaded:
    variant = VARIANTS[name]
    if weights == "random":
        classes = coco_classes(91)
        assert classes is not None
        return random_model(name, {}, classes)
    if weights is None and variant.shipped is not None:
        with resources.as_file(resources.files("detrscope") / "weights" / variant.shipped) as path:
            return _load_file(path)
    if weights is None:
        if variant.published is None:
            raise UserError(
                f"{name} has no published weights; train it, or pass --weights FILE (or 'random')"
            )
        if isinstance(variant.published, OnHub):
            repository = variant.published.repository
            return _adopt(read_folder(_hub_snapshot(repository)), source=repository, variant=name)
        weights = fetch(variant.published.url, variant.published.sha256_prefix)
    path = Path(weights)
    if not path.exists():
        raise UserError(f"--weights {weights}: no such file")
    if path.suffix == ".safetensors" and (card := read_card(path)) is not None:
        if card.variant != name:
            raise UserError(f"{path}: holds a {card.variant}, not a {name}")
        return _load_file(path)
    foreign = read_folder(path) if path.is_dir() else read_file(path)
    return _adopt(foreign, source=str(path), variant=name)


def _load_folder(folder: Path) -> Loaded:
    for name in RUN_CHECKPOINTS:
        if (folder / name).is_file():
            return _load_file(folder / name)
    if (folder / "config.json").is_file():
        return _adopt(read_folder(folder), source=str(folder))
    raise UserError(
        f"{folder}: holds no model; expected a run folder ({RUN_CHECKPOINTS[0]}) or a Hugging Face one (config.json)"
    )


def _load_file(path: Path) -> Loaded:
    if path.suffix == ".safetensors" and read_card(path) is not None:
        model, card = load_checkpoint(path)
        return Loaded(model, card, LoadReport(str(path), len(model.state_dict())))
    return _adopt(read_file(path), source=str(path))


def _adopt(foreign: Foreign, *, source: str, variant: str | None = None) -> Loaded:
    """A model of ours with the weights of a foreign checkpoint, strictly."""
    only = family_of(variant) if variant else None
    family, layout, state = recognise(foreign, source, only)
    tree = to_tree(VARIANTS[variant].config) if variant else settings_of(family, state, foreign)
    config = build_config(family.config, tree, source=source)
    count = family.classes(Shapes(state))
    model = family.build(config, max(1, count))
    wanted = model.state_dict()
    ignored = tuple(key for key in state if key.endswith("num_batches_tracked") and key not in wanted)
    state = {key: tensor for key, tensor in state.items() if key not in ignored}
    if problems := compare(state, wanted):
        raise UserError(f"{source} ({layout.name} layout): {len(problems)} problems: {'; '.join(problems)}")
    model.load_state_dict({**wanted, **state})
    classes = classes_of(foreign, count)
    card = ModelCard(
        family=family.name,
        variant=variant or _nearest_variant(family, config),
        config=to_tree(config),
        classes=classes,
        preprocessing=foreign.preprocessing or Preprocessing(),
        scoring=model.scoring,
        source=source,
    )
    return Loaded(model.eval(), card, LoadReport(source, len(state), skipped=foreign.skipped))


def _nearest_variant(family: Family, config: Any) -> str:
    """The variant with exactly these settings, or the family's name where there is none."""
    return next((v.name for v in family.variants if v.config == config), family.name)


def _hub_snapshot(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"cannot get '{repository}' from the Hugging Face hub ({reason}); download its {', '.join(wanted)} by hand "
            f"and give the folder"
        ) from None
