"""Detection in two steps: one thread prepares images while another runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.postprocess import postprocess
from detrscope.core.probe import Probe
from detrscope.core.tiling import Tiling
from detrscope.core.trace_data import TraceData, sites_of_kind
from detrscope.core.types import Detections, Outputs
from detrscope.inference.detector import Detector
from detrscope.inference.media.reader import MediaFrame
from detrscope.inference.tiled import predict_tiles

MOST_FRAMES = 8  # of a batch: more gain little
# Pixels of the model's input in a batch: more do not fit the caches, or the memory.
CPU_PIXELS, GPU_PIXELS = 1 << 17, 1 << 22
IMAGE_PIXELS = 1 << 22  # of the frames themselves in a batch


@dataclass(frozen=True)
class DetectedFrame:
    """What the model finds in a frame.

    Attributes:
        frame: the frame.
        detections: detections above the threshold.
        weaker: those below it that a tracker may use, where wanted.
        trace: cross-attention of the last decoder layer, where wanted.
    """

    frame: MediaFrame
    detections: Detections
    weaker: Detections | None = None
    trace: TraceData | None = None


class FrameDetector:
    """Detector of batches of frames; finds what `Detector.detect` finds.

    Args:
        detector: the model.
        threshold: minimum score, 0..1, or one for each class.
        lowest: give detections from this score on as `weaker`; None gives none.
        attention: record the cross-attention of the last decoder layer, in the same forward pass.
        tiling: divide each image into overlapping tiles; None runs the model on the image as a whole.

    Raises:
        UserError: attention is asked of a model that has no cross-attention to record, or in tiles.
    """

    def __init__(
        self,
        detector: Detector,
        threshold: float | tuple[float, ...],
        *,
        lowest: float | None = None,
        attention: bool = False,
        tiling: Tiling | None = None,
    ) -> None:
        self._tiling = tiling
        if attention and tiling is not None:
            raise UserError("attention: is not drawn over tiles; leave one of them out")
        self._detector, self._threshold, self._lowest = detector, threshold, lowest
        sites = sites_of_kind(detector.engine.sites, "decoder.cross")
        if attention and not sites:
            raise UserError(
                f"attention: engine '{detector.engine.name}' records no cross-attention of this model"
            )
        self._site = sites[-1] if attention else None

    def prepare(self, image: Tensor) -> Tensor:
        """Resize and normalise an image: uint8 [3, H, W] -> float32 [3, h, w]; in tiles that is done later."""
        if self._tiling is not None:
            return image
        return self._detector.card.preprocessing.apply(image)

    def batch_size(self, image: Tensor, prepared: Tensor) -> int:
        """Return how many frames of these sizes are worth a batch: small ones take longer to start than to compute."""
        if self._tiling is not None:
            return 1
        on_cpu = self._detector.engine.device.startswith("cpu")
        fitting = (CPU_PIXELS if on_cpu else GPU_PIXELS) // prepared[0].numel()
        return max(1, min(MOST_FRAMES, fitting, IMAGE_PIXELS // image[0].numel()))

    def detect(self, frames: Sequence[MediaFrame]) -> list[DetectedFrame]:
        """Return the detections in frames of one size, in their order."""
        card = self._detector.card
        probe = self._detector.edit_probe(frames[0].image, frames[0].prepared)
        if self._site is not None:
            geometry = None if probe is None else probe.geometry
            probe = Probe(self._site, values=False, geometry=geometry)
        sizes = [(frame.image.shape[-2], frame.image.shape[-1]) for frame in frames]
        outputs: Outputs | None = None
        if self._tiling is None:
            outputs = self._detector.predict(torch.stack([frame.prepared for frame in frames]), probe=probe)
            predictions = postprocess(outputs, card, sizes)
        else:
            predict = self._detector.predict
            predictions = [predict_tiles(predict, card, frame.image, self._tiling) for frame in frames]
        found = []
        for number, (frame, scored) in enumerate(zip(frames, predictions, strict=True)):
            (height, width), source = sizes[number], frame.source.name
            detections = scored.detections(
                card.classes, self._threshold, height=height, width=width, source=source
            )
            weaker = None
            if self._lowest is not None:
                more = scored.detections(
                    card.classes, self._lowest, height=height, width=width, source=source
                )
                weaker = _others(more, detections)
            trace = (
                None
                if self._site is None or probe is None or outputs is None
                else self._trace(frame, outputs, probe, number)
            )
            found.append(DetectedFrame(frame, detections, weaker, trace))
        return found

    def _trace(self, frame: MediaFrame, outputs: Outputs, probe: Probe, index: int) -> TraceData:
        """Return what was recorded of one frame."""
        resized = self._detector.card.preprocessing.resize(frame.image)
        size = (resized.shape[1], resized.shape[2])
        return TraceData.of_probe(
            probe,
            outputs,
            index,
            card=self._detector.card,
            geometry=Geometry.of_resize(frame.image.shape[1], frame.image.shape[2], size),
            image=resized,
            model_sites=self._detector.engine.sites,
        )


def _others(all_: Detections, some: Detections) -> Detections:
    """Return the detections that are not among some of them, which come in the same order."""
    known = set(_origins(some))
    return all_.select([i for i, origin in enumerate(_origins(all_)) if origin not in known])


def _origins(detections: Detections) -> list[tuple[int, ...]]:
    """Return what tells each detection from all others: query and class, and the tile where there are any."""
    columns = [detections.query_ids[:, None], detections.labels[:, None]]
    if detections.tiles_xyxy is not None:
        columns.append(detections.tiles_xyxy)
    return [tuple(row) for row in torch.cat(columns, 1).tolist()]
