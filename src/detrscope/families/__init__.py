"""One file per family; `FAMILIES` is the one table. To add a family: one file here, one line there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrscope.blocks.path import DetectionTransformer
from detrscope.config import build as build_config
from detrscope.config import merge, to_tree
from detrscope.core.errors import UserError, nearest
from detrscope.families import deformable_detr, detr, minimal, sprint
from detrscope.families.family import Family, Variant

FAMILIES: dict[str, Family] = {
    f.name: f for f in (minimal.FAMILY, detr.FAMILY, deformable_detr.FAMILY, sprint.FAMILY)
}
VARIANTS: dict[str, Variant] = {v.name: v for f in FAMILIES.values() for v in f.variants}


def family_of(variant: str) -> Family:
    """The family that a variant belongs to.

    Raises:
        UserError: no variant of that name; the nearest one is named.
    """
    for family in FAMILIES.values():
        if any(v.name == variant for v in family.variants):
            return family
    raise UserError(f"model '{variant}' is not known; {nearest(variant, VARIANTS)}")


def resolve(variant: str, overrides: Mapping[str, Any], *, source: str = "model") -> Any:
    """The family's config of a variant with settings laid over it.

    Args:
        variant: a name of `VARIANTS`.
        overrides: nested settings such as `{"decoder": {"layers": 3}}`.
        source: what to call the overrides in errors.

    Raises:
        UserError: unknown variant or setting, or a value of the wrong type.
    """
    family = family_of(variant)
    return build_config(family.config, merge(to_tree(VARIANTS[variant].config), overrides), source=source)


def config_of(family: Family, tree: Mapping[str, Any], *, source: str) -> Any:
    """A family's config out of a file.

    Args:
        family: whose config.
        tree: nested settings; absent ones keep the family's default.
        source: the file, for errors.

    Raises:
        UserError: an unknown setting, or a value of the wrong type or out of range; the file is named.
    """
    return build_config(family.config, tree, source=source)


def build(variant: str, overrides: Mapping[str, Any], classes: int) -> DetectionTransformer:
    """A model with random weights for `classes` classes.

    Raises:
        UserError: unknown variant or setting.
    """
    return family_of(variant).build(resolve(variant, overrides), classes)


def query_count(variant: str, overrides: Mapping[str, Any]) -> int:
    """How many objects the model can find in one image at most."""
    return int(getattr(resolve(variant, overrides), family_of(variant).query_count))
