"""D-RISE (Petsiuk et al. 2021, arXiv:2006.03204): which parts of an image a detection survives without.

The image is run many times, each time under another random mask. A pixel is important where the masks that show it are
those under which the detection is found again. Needs predictions only, so every engine can be explained.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.model_card import Scoring
from detrscope.core.postprocess import class_scores
from detrscope.core.types import Outputs
from detrscope.inference.detector import Detector
from detrscope.lens.deletion_curves import Detected

MASKS = 1000  # for each image; the paper takes 5000
CELLS = 16  # rows and columns of a mask before it is enlarged, as in the paper
SHOWN = 0.5  # probability that a cell is shown, as in the paper
_BATCH = 32


class MaskedImages:
    """D-RISE maps of the detections of one image; the model runs when the first of them is needed.

    Args:
        detector: runs the masked images.
        image: [3, h, w] normalised; masked pixels get 0, the mean colour.
        detected: the detections to explain; all of them share the masks.
        masks: number of masks.
        seed: random seed of the masks.

    Attributes:
        seconds: time that the masked images took; 0 until they have run.
    """

    def __init__(
        self,
        detector: Detector,
        image: Tensor,
        detected: Sequence[Detected],
        masks: int = MASKS,
        seed: int = 0,
    ) -> None:
        self.detector = detector
        self.image = image
        self.detected = tuple(detected)
        self.masks = masks
        self.seed = seed
        self.seconds = 0.0

    def map_of(self, index: int) -> Tensor:
        """Return the importance of every pixel of the model's input for one of the detections: [h, w], 0..1.

        The weighted sum of the masks (sum of w_i M_i, where w_i = S(d_t, f(M_i . I)) is the similarity of
        what the model detects under mask i), divided by the sum of the masks: RISE's estimate (arXiv:1806.07421)
        of E[similarity | the pixel is shown]. Pixels that happen to be shown less are not less important.
        """
        return self._maps[index]

    @cached_property
    def _maps(self) -> Tensor:
        """Maps of all detections: [n, h, w]."""
        start = time.perf_counter()
        card = self.detector.card
        whole = self.detector.predict(self.image[None])
        scores = class_scores(whole.logits[-1, 0], card.scoring)  # [Q, K]
        targets = [(d, scores[d.query]) for d in self.detected]
        total = torch.zeros(len(targets), *self.image.shape[1:])
        shown = torch.zeros(self.image.shape[1:])
        for masks in random_masks(self.masks, (self.image.shape[1], self.image.shape[2]), self.seed):
            outputs = self.detector.predict(self.image * masks[:, None])
            similarity = torch.stack(
                [detection_similarity(outputs, d, row, card.scoring).float().cpu() for d, row in targets]
            )  # [n, B]
            total += torch.einsum("nb,bhw->nhw", similarity, masks)
            shown += masks.sum(0)
        self.seconds = time.perf_counter() - start
        return total / shown.clamp(min=torch.finfo(shown.dtype).tiny)


def random_masks(count: int, size: tuple[int, int], seed: int = 0) -> Iterator[Tensor]:
    """Yield batches of masks [B, h, w] of 0..1, `count` in all.

    As in RISE (arXiv:1806.07421), which D-RISE takes over: a grid of random cells is enlarged by linear
    interpolation, to one cell more than the image along x and y, and cut out at a random offset within a cell.

    Args:
        count: number of masks.
        size: height and width.
        seed: random seed.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    tall, wide = -(-height // CELLS), -(-width // CELLS)  # pixels of a cell, rounded up
    for start in range(0, count, _BATCH):
        number = min(_BATCH, count - start)
        grid = (torch.rand(number, 1, CELLS, CELLS, generator=generator) < SHOWN).float()
        large = F.interpolate(
            grid, ((CELLS + 1) * tall, (CELLS + 1) * wide), mode="bilinear", align_corners=False
        )[:, 0]
        top = torch.randint(0, tall + 1, (number,), generator=generator).tolist()
        left = torch.randint(0, wide + 1, (number,), generator=generator).tolist()
        yield torch.stack(
            [mask[y : y + height, x : x + width] for mask, y, x in zip(large, top, left, strict=True)]
        )


def detection_similarity(outputs: Outputs, detected: Detected, scores: Tensor, scoring: Scoring) -> Tensor:
    """Return how similar a detection is to the most similar of what a model detects: [N, B, Q, *] -> [B], 0..1.

    S(d_t, f(M . I)), the greatest over the queries j of s(d_t, d_j) = s_L s_P s_O: s_L is the IoU of the
    boxes, s_P the cosine of the angle between the class scores, s_O = O_j the objectness. Softmax scores leave the
    probability of "no object": O_j is the rest of it. Sigmoid scores have no objectness, and without one a query that
    detects nothing would count as much as one that does: O_j is the greatest class score.

    Args:
        outputs: predictions of the masked images.
        detected: the detection.
        scores: [K] its class scores in the whole image.
        scoring: how logits become scores.
    """
    found = class_scores(outputs.logits[-1], scoring)  # [B, Q, K]
    boxes = cxcywh_to_xyxy(outputs.boxes_cxcywh[-1].float())  # [B, Q, 4]
    own = cxcywh_to_xyxy(detected.box_cxcywh.to(boxes))[None]
    overlap = box_iou(own, boxes.flatten(0, 1)).view(found.shape[:2])  # s_L
    cosine = F.cosine_similarity(found, scores.to(found), dim=-1)  # s_P
    objectness = found.sum(-1) if scoring == "softmax" else found.amax(-1)  # s_O
    similar: Tensor = (overlap * cosine * objectness).amax(-1)
    return similar
