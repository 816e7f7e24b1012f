"""From a picture and a model to a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.download import is_url, shown_url
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import class_scores
from detrscope.core.probe import Probe
from detrscope.core.trace_data import Gradient, TraceData
from detrscope.core.types import Batch, Outputs, Target
from detrscope.data.image_reader import Channels, ImageSource, read_upright


@dataclass(frozen=True)
class Wanted:
    """What a trace is to keep.

    Attributes:
        sites: names or patterns of attention sites to record; None records every one.
        edits: changes to make while looking.
        features: names or patterns of the backbone's convolutions whose maps to keep.
        explain: queries, or pairs of query and class index, whose gradient is kept.
        values: keep the values of softmax attention too; with `explain` always.
        crop_xyxy: look at this part of the upright image only, pixels.
    """

    sites: str | Sequence[str] | None = None
    edits: Sequence[Edit] = ()
    features: str | Sequence[str] = ()
    explain: Sequence[int | tuple[int, int]] = ()
    values: bool = False
    crop_xyxy: tuple[int, int, int, int] | None = None


def trace_picture(
    model: DetectionTransformer,
    card: ModelCard,
    source: ImageSource,
    wanted: Wanted,
    *,
    targets: Target | None = None,
    channels: Channels = "rgb",
) -> TraceData:
    """One look of any model at one picture, such as one that is being trained; `Detector.trace` is this.

    Args:
        model: in evaluation mode, wherever it is.
        card: of the model.
        source: the picture.
        wanted: what to keep.
        targets: the truth, where known; boxes 0..1 of the whole upright image.
        channels: order of the colours in arrays and tensors.

    Raises:
        UserError: a picture that cannot be read, a crop outside of it, a site, edit or query that does not fit the
            model; the known ones are named.
    """
    if targets is not None:
        _check_targets(targets, len(card.classes))
    original, orientation = read_upright(source, channels=channels)  # [3, H, W] uint8
    height, width = original.shape[-2:]
    x0, y0, x1, y1 = wanted.crop_xyxy or (0, 0, width, height)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(f"crop {x0}, {y0}, {x1}, {y1}: does not lie in an image of {width} x {height} pixels")
    image = card.preprocessing.resize(original[:, y0:y1, x0:x1])
    geometry = Geometry.of_resize(height, width, (image.shape[1], image.shape[2]), orientation)
    explained = bool(wanted.explain)
    probe = Probe(wanted.sites, wanted.edits, wanted.features, explained, wanted.values or explained)
    like = next(model.backbone.parameters())
    images = card.preprocessing.normalise(image)[None].to(device=like.device, dtype=like.dtype)
    with torch.set_grad_enabled(explained):
        outputs = model(Batch(images), probe=probe)
    trace = TraceData.of_probe(
        probe,
        outputs,
        card=card,
        geometry=replace(geometry, crop_xyxy=(x0, y0, x1, y1)),
        image=image,
        model_sites=model.sites,
    )
    return replace(
        trace,
        gradients=tuple(_gradient(one, outputs, probe, card) for one in wanted.explain),
        targets=targets,
        original=original,
        source=source_name(source),
    )


def source_name(source: ImageSource) -> str:
    """A source as results name it: files and addresses, the latter without passwords; empty for images in memory."""
    if isinstance(source, str) and is_url(source):
        return shown_url(source)
    return str(source) if isinstance(source, str | Path) else ""


def _check_targets(targets: Target, classes: int) -> None:
    """Refuse ground truth that is none.

    Raises:
        UserError: what was found and expected.
    """
    labels, boxes = targets.labels, targets.boxes_cxcywh
    if labels.dim() != 1 or labels.is_floating_point() or boxes.shape != (len(labels), 4):
        raise UserError(
            f"targets: expected labels [M] and boxes_cxcywh [M, 4], found {list(labels.shape)} of {labels.dtype} and"
            f" {list(boxes.shape)}"
        )
    if not bool(boxes.isfinite().all()):
        raise UserError("targets: boxes_cxcywh: expected finite numbers")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(
            f"targets: labels: expected class indices 0 to {classes - 1}, found {labels.tolist()[:8]}"
        )


def _gradient(asked: int | tuple[int, int], outputs: Outputs, probe: Probe, card: ModelCard) -> Gradient:
    """Of the logit of a query's class, with respect to what each recorded site gives out."""
    logits = outputs.logits[-1, 0]  # [Q, K]
    query, index = asked if isinstance(asked, tuple) else (asked, None)
    if not 0 <= query < len(logits):
        raise UserError(f"query {query}: this model has queries 0 to {len(logits) - 1}")
    if index is None:
        index = int(class_scores(logits[query], card.scoring).argmax())
    if not 0 <= index < len(card.classes):
        raise UserError(f"class index {index}: this model has classes 0 to {len(card.classes) - 1}")
    leaves = list(probe.outputs.values())
    found = torch.autograd.grad(logits[query, index], leaves, retain_graph=True, materialize_grads=True)
    return Gradient(query, index, {site: g.cpu() for site, g in zip(probe.outputs, found, strict=True)})
