"""The Detector: a model ready to look at pictures, its class names and its preprocessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.load import RANDOM_SEED, load_model, seeded
from detrscope.console import log
from detrscope.core.argument_check import checked_arguments, checked_methods
from detrscope.core.classes import ClassTable
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError, nearest
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import postprocess
from detrscope.core.types import Batch, Detections, Outputs, Target
from detrscope.data.image_reader import Channels, ImageSource, read_image
from detrscope.inference.tracing import Wanted, source_name, trace_picture
from detrscope.ops.kernels.machine import DTYPES, fastest_precision, warn_if_emulated
from detrscope.trace_interface import Trace

Precision = Literal["auto", "fp32", "bf16", "fp16"]
ENGINES = ("torch",)


@checked_methods
class Detector:
    """Finds objects in pictures. Made by `load`.

    Attributes:
        model: the network in evaluation mode, norms folded into convolutions, channels last.
        card: classes, preprocessing, config.
        device: where it runs.
        dtype: of weights and activations; the heads stay in float32.
    """

    def __init__(
        self, model: DetectionTransformer, card: ModelCard, device: torch.device, dtype: torch.dtype
    ) -> None:
        model.eval().requires_grad_(False)
        model.backbone.fold_norms()
        model.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
        model.heads.float()  # eight bits of mantissa would round boxes to two pixels
        self.model = model
        self.card = card
        self.device = device
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"Detector({self.card.variant}, {len(self.classes)} classes, {self.device}, {self.dtype})"

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        return self.card.classes

    @torch.inference_mode()
    def predict(self, images: Tensor, padding: Tensor | None = None) -> Outputs:
        """Raw predictions of a normalised batch.

        Args:
            images: [B, 3, H, W] float, normalised as the card says.
            padding: [B, H, W] bool, True where an image is padded; None where none is.

        Returns:
            logits [N, B, Q, K] and boxes_cxcywh [N, B, Q, 4] in float32, the last decoder layer at -1.

        Raises:
            UserError: images or padding of another shape or type.
        """
        _check_batch(images, padding)
        images = images.to(device=self.device, dtype=self.dtype)
        padding = None if padding is None else padding.to(self.device)
        return self.model(Batch(images, padding))

    @overload
    def detect(
        self,
        source: list[ImageSource] | tuple[ImageSource, ...],
        threshold: float = 0.7,
        *,
        channels: Channels = "rgb",
    ) -> list[Detections]: ...

    @overload
    def detect(
        self, source: ImageSource, threshold: float = 0.7, *, channels: Channels = "rgb"
    ) -> Detections: ...

    def detect(
        self,
        source: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
        threshold: float = 0.7,
        *,
        channels: Channels = "rgb",
    ) -> Detections | list[Detections]:
        """Objects in one picture, or in each of a list of pictures.

        Args:
            source: path, URL, bytes, PIL image, array [H, W, 3], tensor [3, H, W], or a list of these. Each image
                goes through on its own, so that none is padded.
            threshold: the least score kept, 0 to 1; 0.0 gives every query (with sigmoid scores, the best 100 pairs of
                query and class).
            channels: order of the colours in arrays and tensors; "bgr" is what OpenCV gives.

        Returns:
            `Detections` with boxes in pixels of the upright original, best first; a list of them for a list.

        Raises:
            UserError: a picture that cannot be read, or a threshold outside 0..1.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold}: expected a score between 0 and 1")
        if isinstance(source, list | tuple):
            return [self._detect_one(one, threshold, channels) for one in source]
        return self._detect_one(source, threshold, channels)

    def _detect_one(self, source: ImageSource, threshold: float, channels: Channels) -> Detections:
        image = read_image(source, channels=channels)  # [3, H, W] uint8
        height, width = image.shape[-2:]
        outputs = self.predict(self.card.preprocessing.apply(image)[None])
        (scored,) = postprocess(outputs, self.card.scoring, [(height, width)])
        name = source_name(source)
        return scored.detections(self.classes, threshold, height=height, width=width, source=name)

    def trace(
        self,
        source: ImageSource,
        sites: str | Sequence[str] | None = None,
        edits: Sequence[Edit] = (),
        features: str | Sequence[str] = (),
        targets: Target | None = None,
        *,
        explain: Sequence[int | tuple[int, int]] = (),
        values: bool = False,
        crop_xyxy: tuple[int, int, int, int] | None = None,
        channels: Channels = "rgb",
    ) -> Trace:
        """Look at one picture and keep where attention went.

        Args:
            source: path, URL, bytes, PIL image, array [H, W, 3] or tensor [3, H, W].
            sites: names or patterns (`decoder.*.cross`) of the attention sites to record; None records every one.
            edits: changes to make while looking.
            features: names or patterns of the backbone's convolutions whose maps to keep, such as `backbone.layer4.*`.
            targets: the truth, where known, kept beside what was seen; boxes 0..1 of the whole upright image.
            explain: queries whose best class's gradient is kept, as the lens's relevance needs it; a pair of query and
                class index for another class.
            values: keep the values of softmax attention too, which rebuild each layer's output; with `explain` always.
            crop_xyxy: look at this part of the upright image only, pixels.
            channels: order of the colours in arrays and tensors; "bgr" is what OpenCV gives.

        Raises:
            UserError: a picture that cannot be read, a crop outside of it, a site, edit or query that does not fit
                this model; the known ones are named.
        """
        wanted = Wanted(sites, edits, features, explain, values, crop_xyxy)
        return Trace.of(
            trace_picture(self.model, self.card, source, wanted, targets=targets, channels=channels)
        )


@checked_arguments
def load(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    classes: ClassTable | Sequence[str] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    engine: str = "torch",
) -> Detector:
    """A detector by variant name, checkpoint, run folder, Hugging Face folder or id.

    Args:
        name_or_path: such as `detr-r50`, `run/`, `best.safetensors`, `detr-r50-e632da11.pth`,
            `facebook/detr-resnet-50`.
        weights: for a variant name: a file of its weights instead of the published one, or "random".
        classes: class names (ids 0, 1, ...) or a ClassTable; where they are not the checkpoint's own, the class head is
            reset and what was kept is logged.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32", "bf16", "fp16" (GPU only); "auto" is the one that the model was trained and measured in
            where the device computes it natively, else fp32: published models keep the figures of their papers.
        engine: what runs the model; "torch".

    Raises:
        UserError: unknown name, device, precision or engine, or weights that do not fit.
    """
    if engine not in ENGINES:
        raise UserError(f"engine '{engine}' is not known; {nearest(engine, ENGINES)}")
    place = choose_device(device)
    _refuse_precision(precision, place)
    if classes is not None and not isinstance(classes, ClassTable):
        name, count = next(iter(Counter(classes).most_common(1)), ("", 0))
        if count > 1:
            raise UserError(f"load: classes: '{name}' is there more than once")
        classes = ClassTable.of_names(classes)
    if classes is not None and not len(classes):
        raise UserError("load: classes: expected at least one class, found none")
    with seeded(RANDOM_SEED):  # of a class head that is reset
        loaded = load_model(name_or_path, weights=weights, classes=classes)
    for line in loaded.report.lines():
        log.info(line)
    return Detector(loaded.model, loaded.card, place, _dtype_for(precision, loaded.card, place))


def _check_batch(images: Tensor, padding: Tensor | None) -> None:
    """Refuse a batch that is not one.

    Raises:
        UserError: the argument, its shape and what was expected.
    """
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise UserError(
            f"predict: images: expected floating-point [B, 3, H, W], found {list(images.shape)} of {images.dtype}"
        )
    if padding is not None and (
        padding.shape != (len(images), *images.shape[2:]) or padding.dtype != torch.bool
    ):
        expected = [len(images), *images.shape[2:]]
        raise UserError(
            f"predict: padding: expected bool {expected}, found {list(padding.shape)} of {padding.dtype}"
        )


def choose_device(name: str) -> torch.device:
    """A device by name; "auto" takes a GPU where there is one.

    Raises:
        UserError: not a device, or not one of this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}': {reason[:120]}; use auto, cpu, cuda, cuda:N or mps") from None
    return device


def _refuse_precision(precision: str, device: torch.device) -> None:
    if precision not in (*DTYPES, "auto"):
        raise UserError(f"precision '{precision}' is not known; {nearest(precision, (*DTYPES, 'auto'))}")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 is for GPUs; use bf16 on a CPU")


def _dtype_for(precision: Precision, card: ModelCard, device: torch.device) -> torch.dtype:
    """The type to compute in: that of the figures on the card where the device computes it natively, else float32."""
    if precision == "auto":
        native = card.precision == "bf16" and fastest_precision(device) == "bf16"
        return torch.bfloat16 if native else torch.float32
    warn_if_emulated(precision, device)
    return DTYPES[precision]
