"""Model card: metadata of the model in a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.json_schema import StrictModel, validate
from detrscope.core.operating_points import ThresholdFields, ThresholdTable
from detrscope.core.preprocessing import Preprocessing

Scoring = Literal["softmax", "sigmoid"]
Precision = Literal["fp32", "bf16", "fp16"]
TOP = 100  # pairs of query and class, as COCO's AP counts 100 detections of a class
FORMAT = 1
SHIPPED_SOURCE = "shipped with detrscope, trained on drawn dogs"  # also of files exported from this model
MAX_TOP = 1_000_000
MAX_ID = (1 << 63) - 1  # ids are int64 in tensors
MAX_CLASSES = 1_000_000
MAX_NAME_LENGTH = 1000  # characters


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to build and run a model and read its outputs, besides the weights."""

    family: str
    variant: str
    config: dict[str, Any]  # resolved fields of the family's config dataclass
    classes: ClassTable
    preprocessing: Preprocessing
    scoring: Scoring  # softmax: the last logit is "no object"; sigmoid has no such logit
    source: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    precision: Precision | None = None  # precision of training and of the metrics, where known
    thresholds: ThresholdTable | None = None  # operating points on a validation set, where measured
    top: int = TOP  # best pairs of query and class that are kept of an image, with sigmoid scores

    @property
    def has_masks(self) -> bool:
        """Whether the model has a mask head."""
        return bool(self.config.get("mask_head", "none") != "none")

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for the header of a checkpoint, without metrics that JSON cannot hold (NaN, infinity)."""
        fields = dict(vars(self))
        table, top = fields.pop("thresholds"), fields.pop("top")
        return {
            "format": FORMAT,
            **fields,
            # Left out where they say nothing, so that cards without them stay as they were.
            **({} if table is None else {"thresholds": table.to_json()}),
            **({} if top == TOP else {"top": top}),
            "classes": self.classes.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
        }

    @classmethod
    def from_json(cls, tree: object, name: str = "model card") -> ModelCard:
        """Return the card that `to_json` wrote.

        Args:
            tree: parsed JSON.
            name: name of the card in messages.

        Raises:
            UserError: an unsupported format version, an unknown key, or a value of the wrong type or out of
                range; the key is named.
        """
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise UserError(f"{name} has format {tree.get('format')!r}; this version reads format {FORMAT}")
        fields: dict[str, Any] = dict(validate(CardFields, tree, name))
        rows = fields["classes"]
        try:
            fields["classes"] = ClassTable(tuple(row.id for row in rows), tuple(row.name for row in rows))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        fields["preprocessing"] = Preprocessing.from_json(fields["preprocessing"], f"{name}: preprocessing")
        if fields["thresholds"] is not None:
            fields["thresholds"] = _threshold_table(fields["thresholds"], fields["classes"], name)
        del fields["format"]
        return cls(**fields)


def _threshold_table(fields: ThresholdFields, classes: ClassTable, name: str) -> ThresholdTable:
    """Return the threshold table of a card.

    Raises:
        UserError: it is of other classes, or its columns do not fit.
    """
    table = ThresholdTable.from_fields(fields, f"{name}: thresholds")
    if unknown := sorted(set(table.per_class) - set(classes.ids)):
        raise UserError(f"{name}: thresholds: class id {unknown[0]} is not one of the classes")
    return table


def _name(value: object) -> str:
    """Check a class name; it may have any characters, where pydantic's strings refuse lone surrogates."""
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH:
        raise ValueError(f"expected a text of at most {MAX_NAME_LENGTH} characters")
    return value


class ClassRow(StrictModel):
    """Class id and name, as COCO writes categories."""

    id: Annotated[int, Field(ge=-MAX_ID, le=MAX_ID)]
    name: Annotated[str, PlainValidator(_name)]


class CardFields(StrictModel):
    """Model card as JSON."""

    format: int
    family: str
    variant: str
    config: dict[str, Any]
    classes: Annotated[list[ClassRow], Field(min_length=1, max_length=MAX_CLASSES)]
    preprocessing: dict[str, Any]
    scoring: Scoring
    source: str
    metrics: dict[str, float]
    precision: Precision | None = None
    thresholds: ThresholdFields | None = None
    top: Annotated[int, Field(ge=1, le=MAX_TOP)] = TOP
