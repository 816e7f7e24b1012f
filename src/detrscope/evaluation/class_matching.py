"""Match the classes of a model with those of a dataset."""

from __future__ import annotations

from collections.abc import Collection

from detrscope.console import log
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError


def match_classes(
    model: ClassTable, dataset: ClassTable, needed: Collection[int] | None = None
) -> dict[int, int]:
    """Map category ids of the model to those of the dataset, for the classes that both have.

    A class is the same where id and name agree; else where the names agree, spaces around them and letter case
    ignored. Ids alone do not count: two datasets may both start at 1.

    Args:
        model: Classes of the model.
        dataset: Classes of the dataset.
        needed: Dataset ids that the model must have, such as those that have boxes; None for all of them.

    Raises:
        UserError: the model lacks a needed class.
    """
    same = set(zip(model.ids, model.names, strict=True)) & set(zip(dataset.ids, dataset.names, strict=True))
    matched = {category_id: category_id for category_id, _ in same}
    by_name = {_key(n): i for i, n in zip(model.ids, model.names, strict=True) if i not in matched}
    taken = set(matched.values())
    renumbered = 0
    for category_id, name in zip(dataset.ids, dataset.names, strict=True):
        if category_id not in taken and _key(name) in by_name:
            matched[by_name.pop(_key(name))] = category_id
            renumbered += 1
    lacking = set(dataset.ids if needed is None else needed) - set(matched.values())
    if lacking:
        names = [name for i, name in zip(dataset.ids, dataset.names, strict=True) if i in lacking]
        raise UserError(
            f"the model has no class for {len(names)} of the dataset's classes ({_listed(names)}); "
            f"classes of the model: {_listed(model.names)}; of the dataset: {_listed(dataset.names)}; fine-tune the"
            " model on this dataset (from_=MODEL of train), or take one with its classes"
        )
    if renumbered:
        log.info(f"{renumbered} classes have other ids in the dataset than in the model: matched by name")
    if len(matched) < len(model):
        log.info(f"{len(model) - len(matched)} of the model's {len(model)} classes are not in the dataset")
    return matched


def _key(name: str) -> str:
    return name.strip().casefold()


def _listed(names: Collection[str], most: int = 12) -> str:
    quoted = [f"'{name}'" for name in list(names)[:most]]
    return ", ".join(quoted) + (f" and {len(names) - most} more" if len(names) > most else "")
