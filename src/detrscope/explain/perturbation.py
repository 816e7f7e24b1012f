"""A model on one image with parts of it hidden: keys of its cross-attention, or pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord
from detrscope.explain.explainers import ExplainInput
from detrscope.inference.detector import Detector
from detrscope.lens.deletion_curves import curve_detection_score, curve_fractions, deletion_order_mask
from detrscope.lens.explained import map_of_weights

SITES = "decoder.*.cross"  # where keys are hidden
BLUR = 0.08  # standard deviation of the blur that insertion starts from, relative to the image's longer side


class PerturbationRunner:
    """Model on one image with parts of it hidden; follows the score of one detection.

    Attributes:
        undisturbed: score with nothing hidden.
        muted: score with all cross-attention muted, relative to `undisturbed`.
    """

    def __init__(self, detector: Detector, case: ExplainInput) -> None:
        self.detector = detector
        self.case = case
        self.images = case.normalised[None]  # [1, 3, h, w]
        record = case.trace.record(case.trace.site("decoder.cross"))
        self.dense = isinstance(record, DenseRecord)
        self.undisturbed = float(self._scores(self.images))
        self.muted = float(self._scores(self.images, [Gain(SITES, 0.0)])) / self.undisturbed
        self.blurred = _blur(self.images, BLUR * max(self.images.shape[-2:]))

    def keys(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the scores with keys deleted, and inserted, highest weight first: [steps + 1] each.

        One key is always left: a softmax over no keys is undefined.
        """
        counts = (curve_fractions(steps) * (len(weights) - 1)).round()
        hidden = torch.cat(
            [deletion_order_mask(weights, counts), ~deletion_order_mask(weights, counts + 1)]
        )  # [2 * (steps + 1), S]
        if self.dense:
            bias = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[:, None, None]  # [n, 1, 1, S]
            scores = self._scores(self.images.expand(len(hidden), -1, -1, -1), [Bias(SITES, bias)])
        else:
            edits = [Gain(SITES, 0.0, keys=tuple(row.nonzero()[:, 0].tolist())) for row in hidden]
            scores = torch.cat([self._scores(self.images, [edit]) for edit in edits])
        return scores[: steps + 1], scores[steps + 1 :]

    def pixels(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the scores with pixels deleted, and inserted, highest weight first: [steps + 1] each."""
        trace = self.case.trace
        importance = map_of_weights(trace, weights, trace.geometry.of_model_input()).on_image()  # [h, w]
        counts = (curve_fractions(steps) * importance.numel()).round()
        first = deletion_order_mask(importance.flatten(), counts).view(
            -1, 1, *importance.shape
        )  # [steps + 1, 1, h, w]
        deletion = self._scores(torch.where(first, 0.0, self.images))  # 0 is the mean colour
        insertion = self._scores(torch.where(first, self.images, self.blurred))
        return deletion, insertion

    def _scores(self, images: Tensor, edits: Sequence[Edit] = ()) -> Tensor:
        """Return the score of the detection in each image, [B] on the CPU."""
        outputs = self.detector.predict(images, probe=Probe(sites=[], edits=edits))
        return curve_detection_score(outputs, self.case.detected, self.detector.card.scoring).float().cpu()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Return the images after a Gaussian blur, [B, 3, H, W]."""
    reach = int(3 * sigma) + 1
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = (-0.5 * (offset / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)  # [3, 1, k]
    x = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    x = F.conv2d(x, kernel[:, :, None], groups=3)
    return F.conv2d(x, kernel[..., None], groups=3)
