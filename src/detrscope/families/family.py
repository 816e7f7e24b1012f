"""What a family tells the rest of the house about itself: plain data, no registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.keys.key_map import KeyLayout, Shapes


@dataclass(frozen=True)
class Published:
    """Released weights trained on COCO. The first digits of the file's SHA-256 stand in its name."""

    url: str
    ap: float | None  # COCO val 2017, percent, as the authors report it

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def sha256_prefix(self) -> str:
        """`e632da11` of `detr-r50-e632da11.pth`."""
        return self.file_name.rsplit(".", 1)[0].rsplit("-", 1)[-1]


@dataclass(frozen=True)
class OnHub:
    """Released weights trained on COCO, in a repository of the Hugging Face hub; its client checks what arrives."""

    repository: str
    ap: float | None  # COCO val 2017, percent, as the authors report it

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"https://huggingface.co/{self.repository}"


@dataclass(frozen=True)
class Variant:
    """A name that `load` knows, and the settings behind it."""

    name: str
    description: str
    config: Any
    published: Published | OnHub | None = None
    shipped: str | None = None  # file in the package's weights folder
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


@dataclass(frozen=True)
class Family:
    """One file of this folder.

    Attributes:
        config: its frozen dataclass of settings.
        build: (config, number of classes) -> model with random weights.
        infer: shapes of a renamed checkpoint -> the settings they tell.
        classes: shapes of a renamed checkpoint -> how many classes it knows.
        layouts: the key layouts its checkpoints come in.
        query_count: the setting that says how many objects an image can have at most.
        variants: the names.
    """

    name: str
    config: type[Any]
    build: Callable[[Any, int], DetectionTransformer]
    infer: Callable[[Shapes], dict[str, object]]
    classes: Callable[[Shapes], int]
    layouts: tuple[KeyLayout, ...]
    query_count: str
    variants: tuple[Variant, ...]
