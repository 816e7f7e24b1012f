"""The Detector: a model that runs on images, with its class names and its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from detrscope.core.argument_check import (
    check_method_arguments,
)
from detrscope.core.classes import ClassTable
from detrscope.core.download import is_url, shown_url
from detrscope.core.edit_text import edits_of
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.html import ResultList
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import postprocess
from detrscope.core.probe import Probe
from detrscope.core.threshold_choice import find_thresholds
from detrscope.core.tiling import Tiling
from detrscope.core.types import Outputs, Target
from detrscope.data.image_reader import Channels, ImageSource, read_image, read_upright
from detrscope.display import DisplayedDetections, ImageReference
from detrscope.inference.engine import Engine
from detrscope.inference.tiled import predict_tiles
from detrscope.inference.tracing import trace_image
from detrscope.trace_interface import Trace


@check_method_arguments
class Detector:
    """A model that detects objects in images. Made by `load`.

    Attributes:
        engine: runs the model; gives device, precision and attention sites.
        card: classes, preprocessing and config of the model.
        edits: interventions in every forward pass; see `edited`.
    """

    def __init__(self, engine: Engine, card: ModelCard, edits: tuple[Edit, ...] = ()) -> None:
        self.engine = engine
        self.card = card
        self.edits = edits

    def __repr__(self) -> str:
        engine = f"{self.engine.name}, {self.engine.device}, {self.engine.precision}"
        edited = f", {len(self.edits)} edits" if self.edits else ""
        return f"Detector({self.card.variant}, {len(self.classes)} classes, {engine}{edited})"

    def edited(self, edits: Sequence[Edit | str]) -> Detector:
        """Return this detector with interventions in every forward pass: detections, traces and evaluations have them.

        Args:
            edits: `Gain`, `Bias`, `KeyBias`, `Swap`, or texts such as "decoder.*.cross: heads 2,3 x0".

        Raises:
            UserError: a text that is not an edit, or a site that the model does not have.
        """
        added = edits_of(edits)
        Probe([], added).check(self.engine.sites)
        return Detector(self.engine, self.card, (*self.edits, *added))

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        return self.card.classes

    @property
    def unedited(self) -> Detector:
        """This detector without interventions."""
        return Detector(self.engine, self.card)

    def predict(self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        """Return the raw predictions of a normalised batch.

        Args:
            images: [B, 3, H, W] float, normalised as the card says.
            padding: [B, H, W] bool, True where an image is padded; None where none is.
            probe: sites to record and more edits to apply; filled.

        Returns:
            logits [N, B, Q, K] and boxes_cxcywh [N, B, Q, 4] in float32, the last decoder layer at -1.

        Raises:
            UserError: images or padding of another shape or type.
        """
        _check_batch(images, padding)
        if self.edits:
            probe = Probe([], values=False) if probe is None else probe
            probe.edits = (*self.edits, *probe.edits)
        return self.engine.predict(images, padding, probe)

    @overload
    def detect(
        self,
        source: list[ImageSource] | tuple[ImageSource, ...],
        threshold: float | str | tuple[float, ...] = 0.7,
        *,
        tiling: Tiling | None = None,
        channels: Channels = "rgb",
    ) -> list[DisplayedDetections]: ...

    @overload
    def detect(
        self,
        source: ImageSource,
        threshold: float | str | tuple[float, ...] = 0.7,
        *,
        tiling: Tiling | None = None,
        channels: Channels = "rgb",
    ) -> DisplayedDetections: ...

    def detect(
        self,
        source: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
        threshold: float | str | tuple[float, ...] = 0.7,
        *,
        tiling: Tiling | None = None,
        channels: Channels = "rgb",
    ) -> DisplayedDetections | list[DisplayedDetections]:
        """Detect objects in one image, or in each of a list of images.

        Args:
            source: path, URL, bytes, PIL image, array [H, W, 3], tensor [3, H, W], or a list of these. Each image
                is a batch of its own, so that none is padded.
            threshold: minimum score, 0 to 1; 0.0 returns every query (with sigmoid scores, the best 100 pairs of
                query and class). Or what the card's table of thresholds answers: "precision=0.9", "recall=0.8", "f1",
                each also as "f1,per-class". Or a minimum for each class, in the order of `classes`.
            tiling: divide each image into overlapping tiles, for small objects in large images; None runs the model on
                the image as a whole.
            channels: order of the colours in arrays and tensors; "bgr" is what OpenCV gives.

        Returns:
            Detections with boxes in pixels of the upright original, best first; a list of them for a list.

        Raises:
            UserError: an image that cannot be read, a threshold outside 0..1, or a goal that the card cannot answer.
        """
        values = find_thresholds(threshold, self.card.thresholds, self.classes).values
        if isinstance(source, list | tuple):
            return ResultList(self._detect_in(image, values, tiling, channels) for image in source)
        return self._detect_in(source, values, tiling, channels)

    def _detect_in(
        self,
        source: ImageSource,
        threshold: float | tuple[float, ...],
        tiling: Tiling | None,
        channels: Channels,
    ) -> DisplayedDetections:
        image = read_image(source, channels=channels)  # [3, H, W] uint8
        height, width = image.shape[-2:]
        if tiling is None:
            prepared = self.card.preprocessing.apply(image)
            outputs = self.predict(prepared[None], probe=self.edit_probe(image, prepared))
            (scored,) = postprocess(outputs, self.card, [(height, width)])
        else:
            scored = predict_tiles(self.predict, self.card, image, tiling)
        detections = scored.detections(
            self.classes, threshold, height=height, width=width, source=_source_name(source)
        )
        return DisplayedDetections.of(
            detections, ImageReference(source, partial(read_image, channels=channels))
        )

    def edit_probe(self, image: Tensor, prepared: Tensor) -> Probe | None:
        """Return a probe that records nothing, and tells edits where an image lies; None without edits.

        Args:
            image: [3, H, W], upright.
            prepared: the same image as the model takes it, [3, h, w].
        """
        if not self.edits:
            return None
        (height, width), (rows, columns) = image.shape[-2:], prepared.shape[-2:]
        return Probe([], values=False, geometry=Geometry.of_resize(height, width, (rows, columns)))

    def trace(
        self,
        source: ImageSource,
        sites: str | Sequence[str] | None = None,
        edits: Sequence[Edit | str] = (),
        features: str | Sequence[str] = (),
        targets: Target | None = None,
        *,
        explain: Sequence[int | tuple[int, int]] = (),
        values: bool = False,
        crop_xyxy: tuple[int, int, int, int] | None = None,
        channels: Channels = "rgb",
    ) -> Trace:
        """Run the model on one image and record its attention.

        Args:
            source: path, URL, bytes, PIL image, array [H, W, 3] or tensor [3, H, W].
            sites: names or patterns (`decoder.*.cross`) of the attention sites to record; None records all of them.
            edits: interventions to apply in the forward pass: `Gain`, `Bias`, `KeyBias`, `Swap`, or texts such as
                "decoder.*.cross: heads 2,3 x0".
            features: names or patterns of backbone convolutions whose feature maps are recorded, such as
                `backbone.layer4.*`.
            targets: ground truth to store in the trace, where known; boxes 0..1 of the whole upright image.
            explain: queries whose best class's gradient is recorded, for `Trace.relevance`; a pair of query and class
                index for another class.
            values: record the values of softmax attention too, which rebuild each layer's output; always recorded
                with `explain`.
            crop_xyxy: part of the upright image to run the model on, in pixels; None is all of it.
            channels: order of the colours in arrays and tensors; "bgr" is what OpenCV gives.

        Raises:
            UserError: an image that cannot be read, a crop outside of it, or a site, edit or query that does not fit
                this model; the known ones are named.
        """
        image, orientation = read_upright(source, channels=channels)  # [3, H, W] uint8
        data = trace_image(
            self.engine,
            self.card,
            image,
            Probe(sites, (*self.edits, *edits_of(edits)), features, explain, values),
            orientation=orientation,
            crop_xyxy=crop_xyxy,
            targets=targets,
            source=_source_name(source),
        )
        return Trace.of(data)


def _source_name(source: ImageSource) -> str:
    """Return the name of a source in results: a path, or a URL without passwords; empty for images in memory."""
    if isinstance(source, str) and is_url(source):
        return shown_url(source)
    return str(source) if isinstance(source, str | Path) else ""


def _check_batch(images: Tensor, padding: Tensor | None) -> None:
    """Check the shapes and types of a batch."""
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise UserError(
            f"predict: images: expected floating-point [B, 3, H, W], found {list(images.shape)} of {images.dtype}"
        )
    expected = (len(images), *images.shape[2:])
    if padding is not None and (padding.shape != expected or padding.dtype != torch.bool):
        raise UserError(
            f"predict: padding: expected bool {list(expected)}, found {list(padding.shape)} of {padding.dtype}"
        )
