"""Which objects of an image a set of detections finds: one-to-one, by class and IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

MATCH_IOU = 0.5


@dataclass(frozen=True)
class LabelledBoxes:
    """Boxes of one image with their classes: objects, or detections with the best first."""

    boxes_xyxy: Tensor  # [n, 4] pixels
    labels: Tensor  # [n] int64; equal where the class is the same

    def __len__(self) -> int:
        return len(self.labels)


def match_objects(objects: LabelledBoxes, detections: LabelledBoxes, iou: float = MATCH_IOU) -> Tensor:
    """Return the detection that finds each object: [n objects] int64, -1 where none does.

    As COCO's AP at one IoU: each detection, best first, takes the free object of its class that it overlaps most.
    """
    found = torch.full((len(objects),), -1, dtype=torch.int64)
    if not len(objects) or not len(detections):
        return found
    overlaps = box_iou(detections.boxes_xyxy.double(), objects.boxes_xyxy.double())  # [detections, objects]
    overlaps[detections.labels[:, None] != objects.labels[None, :]] = -1
    for detection, row in enumerate(overlaps):
        best, index = row.where(found < 0, -1.0).max(dim=0)
        if best >= iou:
            found[index] = detection
    return found
