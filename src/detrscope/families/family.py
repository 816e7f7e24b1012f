"""Descriptions of families and their variants: plain data, no registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.model_card import TOP
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.keys.hub_config import HubConfig
from detrscope.families.keys.key_map import KeyLayout
from detrscope.families.keys.shapes import Shapes


@dataclass(frozen=True)
class Published:
    """Released weights trained on COCO; the file's name ends in the first digits of its SHA-256."""

    url: str
    ap: float | None  # COCO val 2017, percent, as the authors report it

    @property
    def file_name(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def sha256_prefix(self) -> str:
        """First digits of the SHA-256: `e632da11` of `detr-r50-e632da11.pth`."""
        return self.file_name.rsplit(".", 1)[0].rsplit("-", 1)[-1]


@dataclass(frozen=True)
class OnHub:
    """Released weights trained on COCO, in a repository of the Hugging Face hub, whose client verifies downloads."""

    repository: str
    ap: float | None  # COCO val 2017, percent, as the authors report it

    @property
    def url(self) -> str:
        """Page of the repository."""
        return f"https://huggingface.co/{self.repository}"


@dataclass(frozen=True)
class Variant:
    """A model name and its settings."""

    name: str
    description: str
    config: Any
    published: Published | OnHub | None = None
    shipped: str | None = None  # file in the package's weights folder
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    top: int | None = None  # pairs of query and class that are kept of an image; None: as the family's


@dataclass(frozen=True)
class Family:
    """A family of architectures.

    Attributes:
        name: name of the family.
        config: frozen dataclass of its settings.
        build: (config, number of classes) -> model with random weights.
        infer: shapes of a renamed checkpoint -> settings.
        classes: shapes of a renamed checkpoint -> number of classes.
        layouts: key layouts of published checkpoints.
        query_count: name of the setting that holds the number of queries.
        variants: its variants.
        top: pairs of query and class that its authors' code keeps of an image, where scores are sigmoids.
        incidental: names of settings in which releases of one variant differ.
        hub_configs: by `model_type`, the keys of a Hugging Face config that shapes do not show.
    """

    name: str
    config: type[Any]
    build: Callable[[Any, int], DetectionTransformer]
    infer: Callable[[Shapes], dict[str, object]]
    classes: Callable[[Shapes], int]
    layouts: tuple[KeyLayout, ...]
    query_count: str
    variants: tuple[Variant, ...]
    top: int = TOP
    incidental: tuple[str, ...] = ()
    hub_configs: Mapping[str, type[HubConfig]] = field(default_factory=dict)

    def top_of(self, variant: str) -> int:
        """Return the pairs of query and class that are kept of an image; of another name, as many as the family's."""
        own = next((v.top for v in self.variants if v.name == variant), None)
        return self.top if own is None else own
