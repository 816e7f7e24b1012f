"""Hugging Face's config.json: keys that change the outputs of a model are applied, or refused by name."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

Heads = Annotated[int, Field(ge=1)]


class Partial(pydantic.BaseModel):
    """Base of models of a part of a file; the other keys do not change the outputs of a loaded model."""

    model_config = pydantic.ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class HubConfig(Partial):
    """Base of a family's keys that cannot be inferred from tensor shapes."""

    id2label: dict[str, str] | None = None

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        return {}
