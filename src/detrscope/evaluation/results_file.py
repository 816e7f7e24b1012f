"""Files of results in COCO's format: a list of {image_id, category_id, bbox [x, y, width, height], score}."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrscope.console import atomic_write
from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import read_json
from detrscope.data.parse_values import LARGEST_ID, integer, number


def write_results(path: str | Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Write results, a line each, whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n")
    return Path(path)


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Read results and check that they have the form; ids and numbers that were written as text are numbers here.

    Raises:
        UserError: no such file, no JSON, or a result without a key or with a value of another kind.
    """
    results = read_json(Path(path))
    if not isinstance(results, list):
        raise UserError(f"{path}: expected a list of COCO results, found {type(results).__name__}")
    found = [_from_text(result) for result in results]
    for position, result in enumerate(found, start=1):
        if problem := wrong_result(result):
            raise UserError(f"{path}: result {position}: {problem}")
    return found


def _from_text(result: Any) -> Any:
    """The result with numbers in place of texts; what is no number stays, to be named by `wrong_result`."""
    if not isinstance(result, dict):
        return result
    texts = {
        key: result[key] for key in ("image_id", "category_id", "score") if isinstance(result.get(key), str)
    }
    box = result.get("bbox")
    if not texts and not (isinstance(box, list) and any(isinstance(value, str) for value in box)):
        return result
    parsed = {key: (number if key == "score" else integer)(text) for key, text in texts.items()}
    better = {**result, **{key: value for key, value in parsed.items() if value is not None}}
    if isinstance(box, list):
        better["bbox"] = [value if (v := number(value)) is None else v for value in box]
    return better


def wrong_result(result: Any) -> str:
    """What is wrong with a result; empty where nothing is. Infinite numbers are numbers."""
    if not isinstance(result, Mapping):
        return f"expected an object, found {type(result).__name__}"
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in result]
    if missing:
        return f"'{missing[0]}' is missing"
    if not _are_four_numbers(result["bbox"]):
        return f"'bbox' must be four numbers [x, y, width, height], found {short_repr(result['bbox'])}"
    if not _is_number(result["score"]):
        return f"'score' must be a number, found {short_repr(result['score'])}"
    if not _is_id(result["category_id"]):
        return f"'category_id' must be a whole number of 64 bits, found {short_repr(result['category_id'])}"
    if not _is_id(result["image_id"]) and not isinstance(result["image_id"], str):
        return f"'image_id' must be a whole number of 64 bits, found {short_repr(result['image_id'])}"
    return ""


_NAMED = (("images", "id"), ("annotations", "image_id"))  # images may have names for ids


def check_truth(truth: Any) -> None:
    """Check that a COCO dataset has what evaluation reads.

    Raises:
        UserError: it has not; the list, the annotation and the key are named.
    """
    if not isinstance(truth, Mapping):
        raise UserError(f"truth: expected COCO's dictionary, found {type(truth).__name__}")
    needed = {
        "images": ("id",),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    for key, fields in needed.items():
        rows = truth.get(key)
        if not isinstance(rows, list | tuple):
            raise UserError(f"truth: '{key}' must be a list, found {type(rows).__name__}")
        for number_of, row in enumerate(rows, start=1):
            lacking = [field for field in fields if not isinstance(row, Mapping) or field not in row]
            if lacking:
                raise UserError(f"truth: {key}: row {number_of} has no '{lacking[0]}'")
            wrong = [field for field in fields if field.endswith("id") and not _is_id(row[field])]
            if wrong and (key, wrong[0]) in _NAMED and isinstance(row[wrong[0]], str):
                wrong = wrong[1:]
            if wrong:
                raise UserError(
                    f"truth: {key}: row {number_of}: '{wrong[0]}' must be a whole number of 64 bits, "
                    f"found {short_repr(row[wrong[0]])}"
                )
            if key == "annotations" and not _is_truth(row):
                values = short_repr({k: row.get(k) for k in ("bbox", "area", "iscrowd")}, 160)
                raise UserError(
                    f"truth: {key}: row {number_of}: expected four finite numbers as 'bbox', a number as 'area', "
                    f"0 or 1 as 'iscrowd', found {values}"
                )


def _is_truth(row: Mapping[str, Any]) -> bool:
    finite = _are_four_numbers(row["bbox"]) and all(map(math.isfinite, row["bbox"]))
    return finite and _is_number(row.get("area", 0)) and row.get("iscrowd", 0) in (0, 1)


def _are_four_numbers(box: Any) -> bool:
    try:
        return not isinstance(box, str | Mapping) and len(box) == 4 and all(map(_is_number, box))
    except TypeError:
        return False


def _is_number(value: Any) -> bool:
    kind = type(value)  # the exact types first: there are millions of results
    return kind is float or kind is int or (isinstance(value, numbers.Real) and not isinstance(value, bool))


def _is_id(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return False
    return -LARGEST_ID <= int(value) <= LARGEST_ID
