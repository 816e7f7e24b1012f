"""Class table of a model or dataset: index in the logits, original category id, name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from detrscope.core.errors import UserError, suggest_nearest


@dataclass(frozen=True)
class ClassTable:
    """Category ids and names by class index. Ids are the dataset's own and need not be contiguous."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise UserError(f"class table: {len(self.ids)} ids but {len(self.names)} names")
        if len(set(self.ids)) != len(self.ids):
            raise UserError("class table: category ids must be unique")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _indices(self) -> dict[int, int]:
        return {category_id: index for index, category_id in enumerate(self.ids)}

    @cached_property
    def _indices_of_names(self) -> dict[str, list[int]]:
        indices: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            indices.setdefault(name, []).append(index)
        return indices

    @classmethod
    def of_names(cls, names: Iterable[str]) -> ClassTable:
        """Return a table with ids 0, 1, 2 ... for a list of names."""
        names = tuple(names)
        return cls(tuple(range(len(names))), names)

    def name_of(self, category_id: int) -> str:
        """Return the name of an original category id.

        Raises:
            UserError: the id is not in the table.
        """
        return self.names[self.index_of(category_id)]

    def index_of(self, category_id: int) -> int:
        """Return the class index of an original category id.

        Raises:
            UserError: the id is not in the table.
        """
        try:
            return self._indices[category_id]
        except KeyError:
            known = f"{list(self.ids[:20])}" + (f" and {len(self) - 20} more" if len(self) > 20 else "")
            raise UserError(f"category id {category_id} is not one of {known}") from None

    def index_of_name(self, name: str) -> int:
        """Return the class index of a class name.

        Raises:
            UserError: the name is not in the table (the nearest one is given), or several classes have it.
        """
        indices = self._indices_of_names.get(name, [])
        if not indices:
            raise UserError(f"class '{name}' is not known; {suggest_nearest(name, self.names)}")
        if len(indices) > 1:
            ids = ", ".join(str(self.ids[i]) for i in indices[:10])
            raise UserError(
                f"class '{name}' is the name of categories {ids}; give every category a name of its own"
            )
        return indices[0]

    def to_json(self) -> list[dict[str, int | str]]:
        """Return the categories as COCO writes them: `[{"id": 7, "name": "dog"}, ...]`."""
        return [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, int | str]]) -> ClassTable:
        """Return the table that `to_json` wrote."""
        rows = list(rows)
        return cls(tuple(int(r["id"]) for r in rows), tuple(str(r["name"]) for r in rows))
