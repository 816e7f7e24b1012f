"""Tables of metrics, one row per epoch or snapshot, as JSON lines and as CSV. Damaged lines are left out."""

from __future__ import annotations

import csv
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from detrscope.console import log
from detrscope.core.files import atomic_write

Row = dict[str, Any]


class MetricsTable:
    """A table in two files with the same rows; it is read from the JSON lines.

    Args:
        path: of the files, without suffix.
        key: the column that numbers the rows.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.jsonl, self.csv = path.with_suffix(".jsonl"), path.with_suffix(".csv")
        self.key = key

    def rows(self) -> list[Row]:
        """Return the intact rows in order; log a warning with the number of damaged lines."""
        if not self.jsonl.is_file():
            return []
        rows: dict[int, Row] = {}
        damaged: list[int] = []
        for number, line in enumerate(self.jsonl.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line.decode("utf-8")) if line.strip() else None
            except (ValueError, RecursionError):
                damaged.append(number)
                continue
            if row is None:
                continue
            if isinstance(row, dict) and isinstance(row.get(self.key), int) and row[self.key] not in rows:
                rows[row[self.key]] = row
            else:
                damaged.append(number)
        if damaged:
            _warn_of_lines(self.jsonl, tuple(damaged))
        return [rows[number] for number in sorted(rows)]

    def add(self, row: Row) -> None:
        """Write a row, in place of rows of the same number or a later one: a resumed run repeats them."""
        rows = [old for old in self.rows() if old[self.key] < row[self.key]]
        rows.append({name: _json_value(value) for name, value in row.items()})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_write(self.jsonl) as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        with atomic_write(self.csv) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


@cache
def _warn_of_lines(path: Path, damaged: tuple[int, ...]) -> None:
    """Warn once; the same table is read many times."""
    log.warning("%s: %d lines are damaged and left out, such as line %d", path, len(damaged), damaged[0])


def scores_of_row(row: Row) -> dict[str, float]:
    """Return the defined scores of an epoch's evaluation, by name."""
    return {k.removeprefix("val/"): v for k, v in row.items() if k.startswith("val/") and v is not None}


def describe_row(row: Row, epochs: int) -> str:
    """Describe an epoch in one line."""
    parts = [f"epoch {row['epoch']}/{epochs}  loss {row['train/loss']:.3f}"]
    names = ("class", "box", "giou", "mask", "dice")
    parts += [f"{name} {row[key]:.3f}" for name in names if (key := f"train/loss_{name}") in row]
    shown = {"AP": "AP", "AP50": "AP50", "mask_AP": "mask AP"}
    parts += [f"{shown[name]} {value:.3f}" for name, value in scores_of_row(row).items() if name in shown]
    return "  ".join([*parts, f"{row['images_per_second']:.3g} images/s"])


def _json_value(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
