"""Metadata inside the file of an exported model: the model card and the attention sites."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from detrscope.core.errors import UserError
from detrscope.core.json_schema import StrictModel, validate
from detrscope.core.model_card import ModelCard
from detrscope.core.text_files import parse_json
from detrscope.inference.graph_interface import GraphSite

KEY = "detrscope"  # of the metadata in the file
FORMAT = 1

WeightPrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class GraphMetadata:
    """What the file of an exported model says of it.

    Attributes:
        card: classes, preprocessing, scoring and config of the model.
        sites: attention sites of the model.
        attention: whether records are outputs and edits are inputs.
        any_class: whether logit 0 of the proposals stands for an object of any class.
        precision: precision of the weights in the file.
    """

    card: ModelCard
    sites: tuple[GraphSite, ...]
    attention: bool
    any_class: bool
    precision: WeightPrecision = "fp32"

    def to_text(self) -> str:
        """Return the metadata as JSON."""
        tree = {
            "format": FORMAT,
            **vars(self),
            "card": self.card.to_json(),
            "sites": [asdict(site) for site in self.sites],
        }
        return json.dumps(tree)

    @classmethod
    def from_text(cls, text: str | None, path: str | Path) -> GraphMetadata:
        """Return the metadata that `to_text` wrote.

        Args:
            text: metadata of the file; None where it has none.
            path: the file, for messages.

        Raises:
            UserError: there is none, or it is not what `to_text` writes.
        """
        if text is None:
            raise UserError(f"{path}: has no metadata of detrscope; write it with: detrscope export")
        name = f"{path}: metadata"
        tree = parse_json(text, name)
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise UserError(f"{name} has format {tree.get('format')!r}; this version reads format {FORMAT}")
        fields: dict[str, Any] = dict(validate(_MetadataFields, tree, name))
        del fields["format"]
        fields["card"] = ModelCard.from_json(fields["card"], f"{name}: card")
        fields["sites"] = tuple(
            GraphSite(
                row.site,
                row.heads,
                row.scale,
                row.point_levels and tuple(row.point_levels),
                row.own_maps,
                None if row.windows is None else (row.windows[0], row.windows[1]),
                row.extra,
            )
            for row in fields["sites"]
        )
        return cls(**fields)


class _SiteFields(StrictModel):
    site: str
    heads: Annotated[int, Field(ge=1)]
    scale: float | None
    point_levels: list[Annotated[int, Field(ge=0)]] | None
    own_maps: bool = False
    windows: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)] | None = None
    extra: Annotated[int, Field(ge=0)] = 0


class _MetadataFields(StrictModel):
    format: int
    card: dict[str, Any]
    sites: list[_SiteFields]
    attention: bool
    any_class: bool
    precision: WeightPrecision
