"""The classes a model or a dataset knows: index in the logits, original category id, name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from detrscope.core.errors import UserError, nearest

MOST_LISTED = 100  # ids in a message


@dataclass(frozen=True)
class ClassTable:
    """Row i is class index i. Ids are the dataset's own and need not be contiguous."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise UserError(f"class table: {len(self.ids)} ids but {len(self.names)} names")
        if len(set(self.ids)) != len(self.ids):
            raise UserError("class table: category ids must be unique")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_names(cls, names: Iterable[str]) -> ClassTable:
        """Ids 0, 1, 2 ... for a plain list of names."""
        names = tuple(names)
        return cls(tuple(range(len(names))), names)

    def name_of(self, category_id: int) -> str:
        """The name of an original category id.

        Raises:
            KeyError: there is none.
        """
        return self.names[self.index_of(category_id)]

    def index_of(self, category_id: int) -> int:
        """Class index of an original category id.

        Raises:
            UserError: the id is not in the table.
        """
        try:
            return self._index_of_id[category_id]
        except KeyError:
            known = ", ".join(map(str, self.ids[:MOST_LISTED])) + (" ..." if len(self) > MOST_LISTED else "")
            raise UserError(f"category id {category_id} is not one of [{known}]") from None

    def index_of_name(self, name: str) -> int:
        """Class index of a class name.

        Raises:
            UserError: the name is not in the table; the nearest one is named.
        """
        try:
            return self._index_of_name[name]
        except KeyError:
            raise UserError(f"class '{name}' is not known; {nearest(name, self.names)}") from None

    @cached_property
    def _index_of_id(self) -> dict[int, int]:
        """Looked up once for each annotation: a search would take minutes with 30,000 classes."""
        return {category_id: index for index, category_id in enumerate(self.ids)}

    @cached_property
    def _index_of_name(self) -> dict[str, int]:
        """The first class of each name."""
        return {name: index for index, name in reversed(list(enumerate(self.names)))}

    def to_json(self) -> list[dict[str, int | str]]:
        """`[{"id": 7, "name": "dog"}, ...]` as COCO writes categories."""
        return [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, int | str]]) -> ClassTable:
        """The inverse of `to_json`."""
        rows = list(rows)
        return cls(tuple(int(r["id"]) for r in rows), tuple(str(r["name"]) for r in rows))
