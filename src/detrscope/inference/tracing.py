"""From an image and an engine to a trace."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.model_card import ModelCard
from detrscope.core.probe import Probe
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Target
from detrscope.inference.engine import Engine


def trace_image(
    engine: Engine,
    card: ModelCard,
    image: Tensor,
    probe: Probe,
    *,
    orientation: int = 1,
    crop_xyxy: tuple[int, int, int, int] | None = None,
    targets: Target | None = None,
    source: str = "",
) -> TraceData:
    """Run a model on one image and return its trace; `Detector.trace` and training snapshots are made here.

    Args:
        engine: runs the model; `TorchEngine(model)` for one in training, which must be in evaluation mode.
        card: card of the model.
        image: uint8 [3, H, W], upright.
        probe: sites to record, edits and gradients; filled.
        orientation: EXIF orientation of the file (1 to 8), kept in the trace's geometry.
        crop_xyxy: part of the image to run the model on, in pixels; None is all of it.
        targets: ground truth, where known; boxes 0..1 of the whole image.
        source: name of the file or address.

    Raises:
        UserError: a crop outside the image, targets that are malformed, or a site, edit or query that does not fit
            the model; the known ones are named.
    """
    if targets is not None:
        _check_targets(targets, len(card.classes))
    height, width = image.shape[-2:]
    x0, y0, x1, y1 = crop_xyxy or (0, 0, width, height)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(f"crop {x0}, {y0}, {x1}, {y1}: does not lie in an image of {width} x {height} pixels")
    resized = card.preprocessing.resize(image[:, y0:y1, x0:x1])
    geometry = Geometry.of_resize(height, width, (resized.shape[1], resized.shape[2]), orientation)
    probe.geometry = geometry = replace(geometry, crop_xyxy=(x0, y0, x1, y1))
    outputs = engine.predict(card.preprocessing.normalise(resized)[None], probe=probe)
    trace = TraceData.of_probe(
        probe,
        outputs,
        card=card,
        geometry=geometry,
        image=resized,
        model_sites=engine.sites,
    )
    return replace(trace, targets=targets, original=image, source=source)


def _check_targets(targets: Target, classes: int) -> None:
    """Check that targets are well-formed and fit the model's classes."""
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
