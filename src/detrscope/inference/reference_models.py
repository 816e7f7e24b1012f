"""Models of other libraries that ours are timed against: transformers of the same architecture, Faster R-CNN.

Their weights are random: time and memory do not depend on them, and nothing is downloaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from detrscope.blocks.resnet_d import RESNETS_D
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.types import Outputs
from detrscope.families import FAMILIES, family_config
from detrscope.inference.faster_rcnn import FASTER_RCNNS, build_faster_rcnn

Predict = Callable[[Tensor], Any]  # [B, 3, H, W] -> predictions
ATTENTIONS = ("eager", "sdpa")
REFERENCES = (*(f"transformers-{attention}" for attention in ATTENTIONS), "fasterrcnn")


def check_reference_installed(name: str) -> None:
    """Check that the library of a reference model is installed.

    Raises:
        UserError: it is not; says what to install.
    """
    needed = ("transformers", "timm") if name.startswith("transformers") else ()
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise UserError(
            f"against {name}: {' and '.join(missing)} not installed; pip install 'detrscope[test]'"
        )


def reference_model(name: str, card: ModelCard, device: torch.device) -> Predict:
    """Build a reference model in float32 and evaluation mode.

    Args:
        name: one of `REFERENCES`.
        card: our model, whose architecture and number of classes it has.
        device: device to run on.

    Returns:
        Function of a batch in the model's size. transformers takes normalised images and gives `Outputs` of one decoder
        layer; Faster R-CNN takes images of 0..1, normalises them itself, and gives torchvision's list of detections.

    Raises:
        UserError: an unknown name, a library that is missing, or an architecture that transformers lacks.
    """
    check_reference_installed(name)
    torch.manual_seed(0)
    if name == "fasterrcnn":
        return _faster_rcnn(len(card.classes), device)
    if name not in REFERENCES:
        raise UserError(f"against '{name}': expected one of {', '.join(REFERENCES)}")
    model = transformers_model(card, name.removeprefix("transformers-")).to(device)

    def predict(images: Tensor) -> Outputs:
        with torch.inference_mode():
            found = model(images.to(device))
        return Outputs(found.logits[None], found.pred_boxes[None])

    return predict


def transformers_model(card: ModelCard, attention: str) -> Any:
    """Build transformers' model of our architecture, in float32 and evaluation mode.

    Args:
        card: our model.
        attention: one of `ATTENTIONS`.

    Raises:
        UserError: transformers has none.
    """
    if card.family not in _TRANSFORMERS:
        raise UserError(f"transformers has no model of the family '{card.family}'")
    with _without_warnings():
        return _TRANSFORMERS[card.family](card, attention).eval()


def _faster_rcnn(classes: int, device: torch.device) -> Predict:
    variant = FASTER_RCNNS["fasterrcnn-r50-fpn"]
    model = build_faster_rcnn(variant.config, classes, variant.preprocessing)
    model.eval().to(device)

    def predict(images: Tensor) -> Any:
        sides = (min(images.shape[-2:]), max(images.shape[-2:]))
        # The images have their size already.
        model.transform.min_size, model.transform.max_size = (sides[0],), sides[1]
        with torch.inference_mode():
            return model([*images.to(device)])

    return predict


def _transformers() -> Any:
    """Return the package untyped: its configs take more arguments than they declare."""
    return import_module("transformers")


def _detr(card: ModelCard, attention: str) -> Any:
    transformers = _transformers()
    ours = family_config(FAMILIES[card.family], card.config, source="config")
    body = transformers.TimmBackboneConfig(
        backbone=ours.backbone.name.removeprefix("timm:"),
        use_pretrained_backbone=False,
        out_indices=[4],
        output_stride=16 if ours.backbone.dilate_last else None,
    )
    config = transformers.DetrConfig(
        backbone_config=body,
        num_labels=len(card.classes),
        num_queries=ours.queries,
        d_model=ours.width,
        **_stacks(ours),
        attn_implementation=attention,
    )
    return transformers.DetrForObjectDetection(config)


def _deformable_detr(card: ModelCard, attention: str) -> Any:
    transformers = _transformers()
    ours = family_config(FAMILIES[card.family], card.config, source="config")
    body = transformers.TimmBackboneConfig(
        backbone=ours.backbone.name.removeprefix("timm:"),
        use_pretrained_backbone=False,
        out_indices=list(ours.stages),
        output_stride=16 if ours.backbone.dilate_last else None,
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=body,
        num_labels=len(card.classes),
        num_queries=ours.queries,
        d_model=ours.width,
        num_feature_levels=ours.levels,
        encoder_n_points=ours.encoder.points,
        decoder_n_points=ours.decoder.points,
        with_box_refine=ours.references != "fixed",
        two_stage=ours.references == "two-stage",
        two_stage_num_proposals=ours.queries,
        **_stacks(ours),
        attn_implementation=attention,
    )
    return transformers.DeformableDetrForObjectDetection(config)


def _rt_detr(card: ModelCard, attention: str) -> Any:
    transformers = _transformers()
    ours = family_config(FAMILIES[card.family], card.config, source="config")
    block, depths = RESNETS_D[ours.backbone.name]
    widths = [64 * 2**stage * block.expansion for stage in range(4)]
    body = transformers.RTDetrResNetConfig(
        depths=depths,
        hidden_sizes=widths,
        layer_type="basic" if block.expansion == 1 else "bottleneck",
        out_indices=list(ours.stages),
    )
    name = "RTDetrV2" if card.variant.startswith("rtdetrv2") else "RTDetr"
    config = getattr(transformers, f"{name}Config")(
        backbone_config=body,
        num_labels=len(card.classes),
        num_queries=ours.queries,
        d_model=ours.width,
        encoder_hidden_dim=ours.encoder.width,
        hidden_expansion=ours.encoder.hidden / ours.encoder.width,
        encoder_in_channels=[widths[stage - 1] for stage in ours.stages],
        decoder_in_channels=[ours.encoder.width] * len(ours.stages),
        decoder_n_points=ours.decoder.points[0],
        **_stacks(ours),
        attn_implementation={"": attention, "backbone_config": "eager"},  # its ResNet has no attention
    )
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def _stacks(ours: Any) -> dict[str, int]:
    """Return layers, heads and hidden widths of encoder and decoder under transformers' names."""
    return {
        f"{stack}_{theirs}": getattr(getattr(ours, stack), name)
        for stack in ("encoder", "decoder")
        for theirs, name in (("layers", "layers"), ("attention_heads", "heads"), ("ffn_dim", "feedforward"))
    }


_TRANSFORMERS: dict[str, Callable[[ModelCard, str], Any]] = {
    "detr": _detr,
    "deformable_detr": _deformable_detr,
    "rt_detr": _rt_detr,
}


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the remarks of transformers on building a model, inside the `with`."""
    logging = _transformers().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
