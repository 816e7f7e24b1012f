"""Verdicts: at which stage of the path a detector lost an object, or made a detection that is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Stage = Literal[
    "more objects than queries",
    "smaller than a token",
    "not among the proposals",
    "never reached",
    "lost in a layer",
    "badly placed",
    "wrong class",
    "low score",
    "one query for two",
    "duplicate",
    "on nothing",
]
MEANINGS: dict[Stage, str] = {
    "more objects than queries": "the image has more objects than the model has queries, and none came to this one",
    "smaller than a token": "the box is smaller than one token of the finest feature map, and no query came to it",
    "not among the proposals": "no box that the queries started from overlaps it enough, and no query came to it later",
    "never reached": "no query came to it in any layer",
    "lost in a layer": "a query had it in one layer and left it in a later one",
    "badly placed": "the nearest box of its class overlaps it too little",
    "wrong class": "a query is on it, with another class",
    "low score": "a query is on it with the right class, below the threshold",
    "one query for two": "the only query on it counts for another object that it overlaps more",
    "duplicate": "an object that is already found is detected again: self-attention did not suppress it",
    "on nothing": "there is no object",
}


@dataclass(frozen=True)
class Evidence:
    """What happened in each decoder layer at the place of an error.

    Attributes:
        iou: greatest overlap of any query with the object; for a false detection, of its query with any object.
        score: best score for the class of the queries that overlap enough (IoU .5); None where none does.
        margin: of the query that overlaps most: its score for the class less its best other one.
    """

    iou: tuple[float, ...]
    score: tuple[float | None, ...]
    margin: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """One error: a missed object or a false detection, and the stage where it arose.

    Attributes:
        image_id: id of the image in the dataset.
        image: its file.
        kind: an object that no detection finds, or a detection that finds none.
        stage: where it arose.
        box_xyxy: pixels of the upright image; of the object, or of the detection.
        name: class of the object, or of the detection.
        text: the evidence in words.
        evidence: layer by layer.
        annotation: id of the annotation, of a missed object.
        query: query of a false detection, or the one that is on the object; None where none is.
        score: score of a false detection, or the best one for the class on the object.
        layer: layer in which the object was lost.
        other: the class predicted in place of the object's; for a false detection, that of the object it is on.
        repeats: query that a duplicate repeats.
        object_xyxy: box of the object that a duplicate is on.
        edit: edit that removes a duplicate and keeps what it repeats, as `--edit` takes it; empty where none was found.
        suspected: whether the annotation is suspected rather than the model.
    """

    image_id: Any
    image: str
    kind: Literal["missed", "false"]
    stage: Stage
    box_xyxy: tuple[float, float, float, float]
    name: str
    text: str
    evidence: Evidence
    annotation: int | None = None
    query: int | None = None
    score: float | None = None
    layer: int | None = None
    other: str = ""
    repeats: int | None = None
    object_xyxy: tuple[float, float, float, float] | None = None
    edit: str = ""
    suspected: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class StageCost:
    """What a stage costs.

    Attributes:
        stage: the stage.
        missed: objects lost there.
        false: false detections made there.
        ap: AP that would be gained if all of them were mended: the objects found, the detections gone.
        ap50: the same at IoU .5.
    """

    stage: Stage
    missed: int
    false: int
    ap: float
    ap50: float
