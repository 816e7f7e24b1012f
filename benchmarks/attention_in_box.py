"""How much of each decoder layer's cross-attention lies inside the box it answers for, over a validation split.

python -m benchmarks.attention_in_box --model sprint-dense-n --data drawn-dogs:size=128

Mean over heads and over true boxes, each with the query whose last box overlaps it most; a cell that the box covers in
part counts in part. Uniform attention would give the area of the boxes.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torchvision.ops import box_iou

import detrscope as ds
from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.geometry import Geometry
from detrscope.core.probe import Probe
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.lens.metrics import mass_in
from detrscope.lens.token_coverage import cover_of_boxes


def masses(detector: ds.Detector, image: Tensor, boxes_xyxy: Tensor) -> dict[str, Tensor]:
    """Return the share of attention in each of M boxes [M, 4] in pixels of the image [3, H, W], by site: [M] each."""
    probe = Probe(sites=["decoder.*.cross"])
    seen = detector.card.preprocessing.apply(image)
    outputs = detector.engine.predict(seen[None], probe=probe)
    truth_xyxy = scale_boxes(boxes_xyxy, 1 / image.shape[2], 1 / image.shape[1])
    queries = box_iou(truth_xyxy, cxcywh_to_xyxy(outputs.boxes_cxcywh[-1, 0].float())).argmax(1)  # [M]
    geometry = Geometry.of_resize(image.shape[1], image.shape[2], (seen.shape[1], seen.shape[2]))
    cover = cover_of_boxes(boxes_xyxy, geometry, probe.levels)  # [M, S]
    return {
        site: mass_in(record.rows(queries)[0].float(), cover).mean(0)
        for site, record in probe.records.items()
    }


def main() -> None:
    """Print a line for each decoder layer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sprint-dense-n")
    parser.add_argument("--data", default="drawn-dogs:size=128")
    options = parser.parse_args()
    detector, dataset = ds.load(options.model, precision="fp32"), open_dataset(options.data, "val")
    found: dict[str, list[Tensor]] = {}
    for one in dataset.images:
        boxes = torch.tensor([a.bbox_xywh for a in dataset.annotations[one.id]]).view(-1, 4)
        if len(boxes):
            boxes_xyxy = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
            for site, values in masses(detector, read_image(one.path), boxes_xyxy).items():
                found.setdefault(site, []).append(values)
    for site, parts in found.items():
        values = torch.cat(parts)
        print(f"{site}: {values.mean():.3f} of the attention inside the box, {len(values)} boxes")


if __name__ == "__main__":
    main()
