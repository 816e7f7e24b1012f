"""Plant errors of every kind into runs of a trained model, and read back the stage that `evaluate --why` names.

python -m benchmarks.planted_errors [--model sprint-dense-n --data drawn-dogs:count=4,val=300,test=2] [--count 50]

Proves that the stages are those where errors arose. Objects that the model finds are spoiled one at a time, each by one
error whose place is known, as near to its cause as can be:

- in the data: a shrunken object smaller than a token is pasted into the image; an annotation is moved, removed, gets
  another class, or a second one beside it;
- in the model: it may propose nothing on an object; it has one query for images with more objects; its self-attention
  hides the query on an object from its neighbours, so that they detect it again;
- in its predictions, where no part of the model could be blamed alone: boxes that stay away in all layers, boxes and
  scores that are lost from a layer on, scores that are low in all layers.

An error that did not come about (the tiny object is found, the neighbour stays silent) is not counted, and said. Prints
kinds against stages, and ends with 1 where fewer than 95% are named rightly.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou

import detrscope as ds
from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.classes import ClassTable
from detrscope.core.probe import Probe
from detrscope.core.types import Outputs
from detrscope.core.verdicts import MEANINGS, Stage, Verdict
from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.explain.why import explain_errors
from detrscope.inference.engine import Engine
from detrscope.inference.torch_engine import TorchEngine

THRESHOLD = 0.5
WANTED = 0.95
LOW = 0.3  # score of a query that is not to be a detection
HIDDEN = -8  # added to the scores by which neighbours of a query see it
FAR = (0.02, 0.02, 0.02, 0.02)  # box, cxcywh, of queries that are moved away
NEW = 900_000_000  # id of an annotation that is added
Change = Callable[[Outputs], Outputs]


class PlantedEngine:
    """Engine whose predictions are changed."""

    def __init__(self, engine: Engine, change: Change) -> None:
        self.engine, self.change = engine, change
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self.sites, self.feature_sites = engine.sites, engine.feature_sites

    def predict(self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        """Return the changed predictions."""
        return self.change(self.engine.predict(images, padding, probe))


class Right(NamedTuple):
    """An object that the model finds.

    Attributes:
        info: the image.
        rows: its annotations.
        row: the object.
        query: the query that finds it.
        near: all queries whose box overlaps it by .45 or more in the last layer.
        outputs: predictions of the model in the image.
    """

    info: ImageInfo
    rows: tuple[Annotation, ...]
    row: Annotation
    query: int
    near: list[int]
    outputs: Outputs


@dataclass
class Planted:
    """An error and where it is.

    Attributes:
        detector: the model, with what was done to it.
        info: the image.
        rows: its annotations.
        annotation: id of the annotation that is missed; None where a detection is false.
        query: query of the false detection; None where an object is missed.
        layer: layer in which the object was lost; None elsewhere.
    """

    detector: ds.Detector
    info: ImageInfo
    rows: tuple[Annotation, ...]
    annotation: int | None = None
    query: int | None = None
    layer: int | None = None


class Planter:
    """Plants errors into the runs of one model.

    Args:
        detector: the model, run by PyTorch.
        dataset: images with ground truth.
        folder: for images that are changed.
        seed: of everything random.
    """

    def __init__(self, detector: ds.Detector, dataset: DetectionDataset, folder: Path, seed: int) -> None:
        self.detector, self.dataset, self.folder = detector, dataset, folder
        self.random = random.Random(seed)
        self.token = (0.0, 0.0)
        self.false: set[tuple[object, int | None]] = (
            set()
        )  # detections that were wrong before: image and query

    def right(self) -> Iterator[Right]:
        """Yield objects that the model finds, in random order of the images."""
        why = explain_errors(self.detector, self.dataset, threshold=THRESHOLD, prove=0)
        missed = {(verdict.image_id, verdict.annotation) for verdict in why.verdicts}
        self.false = {
            (verdict.image_id, verdict.query) for verdict in why.verdicts if verdict.kind == "false"
        }
        known = set(self.detector.classes.names)
        for info in self.random.sample(self.dataset.images, len(self.dataset)):
            rows = self.dataset.annotations[info.id]
            if not rows or any(row.iscrowd for row in rows):
                continue
            trace = self.detector.trace(info.path, sites=())
            finest, (height, width) = trace.levels[0], trace.geometry.padded
            scale = trace.geometry.scale
            self.token = (width / finest.width / scale[0], height / finest.height / scale[1])
            outputs = Outputs(trace.logits[:, None], trace.boxes_cxcywh[:, None])
            for row in self.random.sample(rows, len(rows)):
                name = self.dataset.classes.name_of(row.category_id)
                if name in known and (info.id, row.id) not in missed:
                    overlaps = box_iou(trace.boxes_xyxy(), xyxy(row)[None])[:, 0]
                    index = self.detector.classes.names.index(name)
                    scores = trace.scores()[:, index].where(overlaps >= 0.5, -1.0)
                    near = (overlaps >= 0.45).nonzero().flatten().tolist()
                    yield Right(info, rows, row, int(scores.argmax()), near, outputs)

    def plant(self, stage: Stage, at: Right) -> list[Planted]:
        """Return the errors of a kind at an object, all in one image; nothing where it cannot be planted there."""
        return {
            "smaller than a token": self._tiny,
            "more objects than queries": self._one_query,
            "not among the proposals": self._not_proposed,
            "never reached": self._never_reached,
            "lost in a layer": self._lost,
            "badly placed": self._moved,
            "wrong class": self._renamed,
            "low score": self._unsure,
            "one query for two": self._second,
            "duplicate": self._repeated,
            "on nothing": self._removed,
        }[stage](at)

    def _tiny(self, at: Right) -> list[Planted]:
        """Paste a shrunken copy of the object where nothing is, and annotate it."""
        pixels = read_image(at.info.path)
        x0, y0, x1, y1 = (round(v) for v in xyxy(at.row).tolist())
        side = self.random.uniform(0.35, 0.85) * min(self.token)
        width, height = max(2, round(side)), max(2, round(side * self.random.uniform(0.8, 1.2)))
        if width * height >= self.token[0] * self.token[1]:
            return []
        place = self._free(at, width, height, apart=2.0 * max(self.token))
        if place is None:
            return []
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        picture.paste(picture.crop((x0, y0, x1, y1)).resize((width, height), Image.Resampling.BOX), place)
        path = self.folder / f"{at.info.id}-{at.row.id}.png"
        picture.save(path)
        row = moved(at.row, (*place, width, height), NEW)
        if self._reached(self.detector, path, row):  # small, and seen all the same
            return []
        return [Planted(self.detector, replace(at.info, path=path), (*at.rows, row), annotation=NEW)]

    @staticmethod
    def _reached(detector: ds.Detector, path: Path, row: Annotation) -> bool:
        """Return whether any query has the object's box in any layer."""
        trace = detector.trace(path, sites=())
        boxes = cxcywh_to_xyxy(trace.boxes_cxcywh).reshape(-1, 4)
        pixels = scale_boxes(boxes, trace.geometry.width, trace.geometry.height)
        return bool((box_iou(pixels, xyxy(row)[None]) >= 0.5).any())

    def _is_large(self, row: Annotation) -> bool:
        """Return whether an object is larger than a token: a smaller one is lost for its size."""
        return row.bbox_xywh[2] * row.bbox_xywh[3] > self.token[0] * self.token[1]

    def _free(self, at: Right, width: int, height: int, apart: float) -> tuple[int, int] | None:
        """Return a place for a box that is apart from all objects."""
        for _ in range(200):
            x = self.random.randrange(max(1, at.info.width - width))
            y = self.random.randrange(max(1, at.info.height - height))
            clear = all(
                x + width + apart < left
                or x > left + w + apart
                or y + height + apart < top
                or y > top + h + apart
                for left, top, w, h in (row.bbox_xywh for row in at.rows)
            )
            if clear:
                return x, y
        return None

    def _one_query(self, at: Right) -> list[Planted]:
        """Leave the model one query for two or more objects."""
        queries = getattr(self._model(), "queries", None)
        if len(at.rows) < 2 or not hasattr(queries, "count"):
            return []
        engine = TorchEngine(copy.deepcopy(self._model()))
        engine.model.queries.count = 1
        detector = ds.Detector(engine, self.detector.card)
        found = detector.detect(at.info.path, threshold=THRESHOLD)
        boxes = torch.stack([xyxy(row) for row in at.rows])
        overlaps = box_iou(boxes, found.boxes_xyxy).amax(1) if len(found) else torch.zeros(len(boxes))
        lost = [row for row, overlap in zip(at.rows, overlaps.tolist(), strict=True) if overlap < 0.5]
        lost = [row for row in lost if self._is_large(row) and not self._reached(detector, at.info.path, row)]
        return [Planted(detector, at.info, at.rows, annotation=row.id) for row in lost]

    def _not_proposed(self, at: Right) -> list[Planted]:
        """Let no token propose a box on the object."""
        model = copy.deepcopy(self._model())
        if not hasattr(model.queries, "propose") or not self._is_large(at.row):
            return []
        propose, box, info = model.queries.propose, xyxy(at.row), at.info

        def without(pyramid: object) -> object:
            proposals = propose(pyramid)
            boxes = scale_boxes(cxcywh_to_xyxy(proposals.boxes_cxcywh[0].float()), info.width, info.height)
            on_it = box_iou(boxes, box[None])[:, 0] >= 0.2
            logits = proposals.logits.masked_fill(on_it[None, :, None], -30.0)
            return replace(proposals, logits=logits)

        model.queries.propose = without
        detector = ds.Detector(TorchEngine(model), self.detector.card)
        trace = detector.trace(info.path, sites=())
        every = scale_boxes(cxcywh_to_xyxy(trace.boxes_cxcywh), info.width, info.height).reshape(-1, 4)
        reached = bool(
            (box_iou(every, box[None]) >= 0.5).any()
        )  # a query from elsewhere came to it all the same
        return [] if reached else [Planted(detector, info, at.rows, annotation=at.row.id)]

    def _never_reached(self, at: Right) -> list[Planted]:
        """Keep the boxes of all queries small inside the object, and their scores low, in every layer."""
        if not self._is_large(at.row):
            return []

        def away(outputs: Outputs) -> Outputs:
            on_it = self._overlap(outputs, at) >= 0.4  # [N, Q]
            boxes, logits = outputs.boxes_cxcywh.clone(), outputs.logits.clone()
            boxes[:, 0][on_it] *= boxes.new_tensor([1, 1, 0.5, 0.5])
            logits[:, 0][on_it.any(0).expand_as(on_it)] = logit(LOW) - 2
            return replace(outputs, logits=logits, boxes_cxcywh=boxes)

        return [Planted(self._changed(away), at.info, at.rows, annotation=at.row.id)]

    def _lost(self, at: Right) -> list[Planted]:
        """Take boxes or scores away from a layer on."""
        layers = len(at.outputs.logits)
        if layers < 2:
            return []
        overlaps = self._overlap(at.outputs, at)
        index = self._class(at)
        scores = at.outputs.logits[:, 0, :, index].sigmoid()  # [N, Q]
        by_box = self.random.random() < 0.5
        reached = (overlaps >= 0.5) & (scores >= (0.0 if by_box else THRESHOLD))
        layer = self.random.randrange(1, layers)
        if not bool(reached[layer - 1].any()) or self.detector.card.scoring != "sigmoid":
            return []

        def lose(outputs: Outputs) -> Outputs:
            near = (self._overlap(outputs, at)[layer:] >= 0.4).any(0)  # [Q]
            boxes, logits = outputs.boxes_cxcywh.clone(), outputs.logits.clone()
            logits[layer:, 0, near] = logit(LOW) - 2
            if by_box:
                boxes[layer:, 0, near] = boxes.new_tensor(FAR)
            return replace(outputs, logits=logits, boxes_cxcywh=boxes)

        return [Planted(self._changed(lose), at.info, at.rows, annotation=at.row.id, layer=layer)]

    def _moved(self, at: Right) -> list[Planted]:
        """Move the annotation off the detection, so far that they overlap by .15 to .45."""
        every = self._boxes(at.outputs, at.info)  # [N, Q, 4]
        own = every[-1, at.query]
        x, y, width, height = at.row.bbox_xywh
        others = [xyxy(row) for row in at.rows if row.id != at.row.id]
        for _ in range(50):
            dx, dy = self.random.uniform(-0.7, 0.7) * width, self.random.uniform(-0.7, 0.7) * height
            row = moved(at.row, (x + dx, y + dy, width, height), at.row.id)
            box = xyxy(row)[None]
            inside = x + dx >= 0 and y + dy >= 0 and x + dx + width <= at.info.width
            apart = not others or float(box_iou(torch.stack(others), box).max()) < 0.05
            if not (inside and y + dy + height <= at.info.height and apart):
                continue
            reached = float(box_iou(every.reshape(-1, 4), box).max())
            if 0.15 <= float(box_iou(own[None], box)) <= 0.45 and reached < 0.5:
                rows = tuple(row if r.id == row.id else r for r in at.rows)
                error = Planted(self.detector, at.info, rows)
                return [replace(error, annotation=row.id), replace(error, query=at.query)]
        return []

    def _renamed(self, at: Right) -> list[Planted]:
        """Annotate the object as another class."""
        others = [i for i in self.dataset.classes.ids if i != at.row.category_id]
        known = [i for i in others if self.dataset.classes.name_of(i) in self.detector.classes.names]
        if not known:
            return []
        row = replace(at.row, category_id=self.random.choice(known))
        error = Planted(self.detector, at.info, tuple(row if r.id == row.id else r for r in at.rows))
        return [replace(error, annotation=row.id), replace(error, query=at.query)]

    def _unsure(self, at: Right) -> list[Planted]:
        """Lower the scores of all queries on the object, in all layers."""
        score = self.random.uniform(0.15, 0.4)

        def lower(outputs: Outputs) -> Outputs:
            on_it = (self._overlap(outputs, at) >= 0.4).any(0)
            logits = outputs.logits.clone()
            logits[:, 0, on_it] = logits[:, 0, on_it].clamp(max=logit(score))
            return replace(outputs, logits=logits)

        return [Planted(self._changed(lower), at.info, at.rows, annotation=at.row.id)]

    def _second(self, at: Right) -> list[Planted]:
        """Annotate a second object so close to the first that one query overlaps both, the first one more."""
        own = self._boxes(at.outputs, at.info)[-1, at.query]
        first = float(box_iou(own[None], xyxy(at.row)[None]))
        x, y, width, height = at.row.bbox_xywh
        for _ in range(50):
            dx, dy = self.random.uniform(-0.4, 0.4) * width, self.random.uniform(-0.4, 0.4) * height
            row = moved(at.row, (x + dx, y + dy, width, height), NEW)
            if 0.55 <= float(box_iou(own[None], xyxy(row)[None])) < first - 0.05:
                return [Planted(self.detector, at.info, (*at.rows, row), annotation=NEW)]
        return []

    def _repeated(self, at: Right) -> list[Planted]:
        """Hide the query on the object from its neighbours in self-attention: some detect the object again."""
        others = [query for query in at.near if query != at.query]
        if not others:
            return []
        listed = ",".join(map(str, others))
        edit = f"decoder.*.self: favour queries {listed} keys {at.query} {HIDDEN}"
        detector = self.detector.edited([edit])
        found = detector.detect(at.info.path, threshold=THRESHOLD)
        on_it = box_iou(found.boxes_xyxy, xyxy(at.row)[None])[:, 0] >= 0.5
        alone = [xyxy(row) for row in at.rows if row.id != at.row.id]
        if alone:  # detections that may find another object are no duplicates
            on_it &= (box_iou(found.boxes_xyxy, torch.stack(alone)) < 0.5).all(1)
        queries = found.query_ids[on_it].tolist()  # the best first: the one that finds the object
        added = [query for query in queries[1:] if (at.info.id, query) not in self.false]
        return [Planted(detector, at.info, at.rows, query=query) for query in added]

    def _removed(self, at: Right) -> list[Planted]:
        """Remove the annotation, where no other object is near the detection."""
        rows = tuple(row for row in at.rows if row.id != at.row.id)
        own = self._boxes(at.outputs, at.info)[-1, at.query]
        if rows and float(box_iou(own[None], torch.stack([xyxy(row) for row in rows])).max()) >= 0.1:
            return []
        return [Planted(self.detector, at.info, rows, query=at.query)]

    def _changed(self, change: Change) -> ds.Detector:
        return ds.Detector(PlantedEngine(self.detector.engine, change), self.detector.card)

    def _boxes(self, outputs: Outputs, info: ImageInfo) -> Tensor:
        """Return the boxes of all layers and queries in pixels: [N, Q, 4]."""
        return scale_boxes(cxcywh_to_xyxy(outputs.boxes_cxcywh[:, 0].float()), info.width, info.height)

    def _overlap(self, outputs: Outputs, at: Right) -> Tensor:
        """Return the overlap of all boxes with the object: [N, Q]."""
        boxes = self._boxes(outputs, at.info)
        return box_iou(boxes.reshape(-1, 4), xyxy(at.row)[None])[:, 0].reshape(boxes.shape[:2])

    def _class(self, at: Right) -> int:
        return self.detector.classes.names.index(self.dataset.classes.name_of(at.row.category_id))

    def _model(self) -> nn.Module:
        assert isinstance(self.detector.engine, TorchEngine)
        return self.detector.engine.model


def xyxy(row: Annotation) -> Tensor:
    """Return the corners of an annotation's box."""
    x, y, width, height = row.bbox_xywh
    return torch.tensor([x, y, x + width, y + height])


def moved(row: Annotation, bbox: tuple[float, float, float, float], number: int) -> Annotation:
    """Return an annotation with another box and id."""
    area = bbox[2] * bbox[3]
    return replace(
        row, id=number, bbox_xywh=bbox, area=area, segmentation=None, declared_xywh=None, declared_area=None
    )


def logit(score: float) -> float:
    """Return the logit of a sigmoid score."""
    return float(torch.logit(torch.tensor(score)))


def with_second_class(detector: ds.Detector, name: str = "cat") -> ds.Detector:
    """Return a model of one class with a second one beside it, which it hardly ever predicts."""
    assert isinstance(detector.engine, TorchEngine) and len(detector.classes) == 1
    model = copy.deepcopy(detector.engine.model)
    for part in (model.heads, model.queries):
        head = part.class_head
        wider = nn.Linear(head.in_features, 2).to(head.weight.dtype)
        with torch.no_grad():
            wider.weight.copy_(head.weight.expand(2, -1))
            wider.bias.copy_(head.bias.expand(2) - wider.bias.new_tensor([0.0, 6.0]))
        part.class_head = wider.requires_grad_(False)
    (own,) = detector.classes.ids
    classes = ClassTable((own, own + 1), (*detector.classes.names, name))
    return ds.Detector(TorchEngine(model), replace(detector.card, classes=classes))


def read_back(planted: Planted, dataset: DetectionDataset) -> Verdict | None:
    """Return the verdict on a planted error; None where there is none."""
    one = replace(dataset, images=(planted.info,), annotations={planted.info.id: planted.rows}, unusable={})
    why = explain_errors(planted.detector, one, threshold=THRESHOLD)
    for verdict in why.verdicts:
        if planted.annotation is not None and verdict.annotation == planted.annotation:
            return verdict
        if planted.query is not None and verdict.kind == "false" and verdict.query == planted.query:
            return verdict
    return None


@dataclass
class Tally:
    """What was read back of one kind.

    Attributes:
        stages: how often each stage was named; "no error" where none was.
        right: how many were named rightly, the layer too where one was lost in it.
        without_effect: objects at which the error could not be planted or did not come about.
        proved: duplicates with an edit that removes them.
    """

    stages: Counter[str]
    right: int = 0
    without_effect: int = 0
    proved: int = 0

    @property
    def count(self) -> int:
        """Errors that were planted."""
        return self.stages.total()


def run(detector: ds.Detector, dataset: DetectionDataset, count: int, seed: int = 0) -> dict[Stage, Tally]:
    """Plant errors of every kind and read their stages back.

    Args:
        detector: the model.
        dataset: images with ground truth.
        count: errors of each kind, fewer where the images give fewer.
        seed: of everything random.
    """
    if len(detector.classes) == 1:
        detector = with_second_class(detector)
        known = dataset.classes
        classes = ClassTable((*known.ids, max(known.ids) + 1), (*known.names, detector.classes.names[1]))
        dataset = replace(dataset, classes=classes)
    tallies: dict[Stage, Tally] = {stage: Tally(Counter()) for stage in MEANINGS}
    with tempfile.TemporaryDirectory() as folder:
        planter = Planter(detector, dataset, Path(folder), seed)
        places = list(planter.right())
        for stage, tally in tallies.items():
            for at in places:
                if tally.count >= count:
                    break
                errors = planter.plant(stage, at)
                tally.without_effect += not errors
                for planted in errors:
                    verdict = read_back(planted, dataset)
                    tally.stages["no error" if verdict is None else verdict.stage] += 1
                    if verdict is not None:
                        tally.right += verdict.stage == stage and verdict.layer == planted.layer
                        tally.proved += bool(verdict.edit)
    return tallies


def main() -> int:
    """Plant, read back, print; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="sprint-dense-n")
    parser.add_argument("--data", default="drawn-dogs:count=4,val=300,test=2")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    detector = ds.load(options.model, device="cpu", precision="fp32")
    tallies = run(detector, open_dataset(options.data, "val"), options.count, options.seed)
    print(f"{'planted':28}{'count':>6}{'right':>7}{'no effect':>11}  named")
    for stage, tally in tallies.items():
        named = ", ".join(f"{name} {n}" for name, n in tally.stages.most_common())
        proved = f"; removed by an edit: {tally.proved}" if stage == "duplicate" else ""
        print(f"{stage:28}{tally.count:6}{tally.right:7}{tally.without_effect:11}  {named}{proved}")
    count, right = sum(t.count for t in tallies.values()), sum(t.right for t in tallies.values())
    empty = [stage for stage, tally in tallies.items() if not tally.count]
    print(f"{right} of {count} named rightly: {100 * right / max(count, 1):.1f}%")
    if empty:
        print(f"not planted, since the model or the images do not allow it: {', '.join(empty)}")
    least = min((t.right / t.count for t in tallies.values() if t.count), default=0.0)
    print(f"the kind named rightly least often: {100 * least:.1f}%")
    return 0 if count and right >= WANTED * count and least >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
