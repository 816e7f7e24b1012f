"""Result files in COCO's format: a list of {image_id, category_id, bbox [x, y, width, height], score}."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import read_json
from detrscope.data.parse_values import MAX_ID, ROW_LENGTH, parse_integer, parse_number


def write_results(path: str | Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Write results one per line, whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n")
    return Path(path)


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Read and check results; ids and numbers that are written as text become numbers.

    Raises:
        UserError: the file is missing or not JSON, or a result lacks a key or has a value of another type.
    """
    results = read_json(Path(path))
    if not isinstance(results, list):
        raise UserError(f"{path}: expected a list of COCO results, found {type(results).__name__}")
    parsed = [_with_numbers(result) for result in results]
    for number, result in enumerate(parsed, start=1):
        if problem := result_problem(result):
            raise UserError(f"{path}: result {number}: {problem}")
    return parsed


def _with_numbers(result: Any) -> Any:
    """Return the result with numbers in place of texts; other texts stay, to be named by `result_problem`."""
    if not isinstance(result, dict):
        return result
    texts = [key for key in ("image_id", "category_id", "score") if isinstance(result.get(key), str)]
    box = result.get("bbox")
    if not texts and not (isinstance(box, list) and any(isinstance(value, str) for value in box)):
        return result
    parsed = {key: (parse_number if key == "score" else parse_integer)(result[key]) for key in texts}
    better = {**result, **{key: value for key, value in parsed.items() if value is not None}}
    if isinstance(box, list):
        better["bbox"] = [value if (v := parse_number(value)) is None else v for value in box]
    return better


def result_problem(result: Any) -> str:
    """Return what is wrong with a result, or an empty text. Infinite numbers are numbers."""
    if _is_plain(result):
        return ""
    if not isinstance(result, Mapping):
        return f"expected an object, found {type(result).__name__}"
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in result]
    if missing:
        return f"'{missing[0]}' is missing"
    if not _are_four_numbers(result["bbox"]):
        return f"'bbox' must be four numbers [x, y, width, height], found {short_repr(result['bbox'])}"
    if not _is_number(result["score"]):
        return f"'score' must be a number, found {short_repr(result['score'])}"
    for key in ("category_id", "image_id"):
        if not _is_id(result[key]) and not (key == "image_id" and isinstance(result[key], str)):
            return f"'{key}' must be a whole number of 64 bits, found {short_repr(result[key])}"
    return ""


def _is_plain(result: Any) -> bool:
    """Whether a result holds only Python's own numbers, as nearly all do: the full check takes ten times as long."""
    if type(result) is not dict:
        return False
    box, score = result.get("bbox"), result.get("score")
    image_id, category_id = result.get("image_id"), result.get("category_id")
    return (
        type(box) is list
        and [type(value) for value in box] == _FOUR_FLOATS
        and type(score) is float
        and type(image_id) is int
        and type(category_id) is int
        and -MAX_ID <= image_id <= MAX_ID
        and -MAX_ID <= category_id <= MAX_ID
    )


_FOUR_FLOATS = [float, float, float, float]
_FIELDS = {
    "images": ("id",),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
_TEXT_IDS = (("images", "id"), ("annotations", "image_id"))  # ids of images may be names


def check_results_ground_truth(ground_truth: Any) -> None:
    """Check that a COCO dataset has the fields that evaluation reads.

    Raises:
        UserError: a field is missing or of another type; the list, the row and the key are named.
    """
    if not isinstance(ground_truth, Mapping):
        raise UserError(f"ground truth: expected a COCO dictionary, found {type(ground_truth).__name__}")
    for key, fields in _FIELDS.items():
        rows = ground_truth.get(key)
        if not isinstance(rows, list | tuple):
            raise UserError(f"ground truth: '{key}' must be a list, found {type(rows).__name__}")
        for number, row in enumerate(rows, start=1):
            where = f"ground truth: {key}: row {number}"
            for field in fields:
                if not isinstance(row, Mapping) or field not in row:
                    raise UserError(f"{where} has no '{field}'")
            for field in fields:
                text_id = (key, field) in _TEXT_IDS and isinstance(row[field], str)
                if field.endswith("id") and not _is_id(row[field]) and not text_id:
                    value = short_repr(row[field])
                    raise UserError(f"{where}: '{field}' must be a whole number of 64 bits, found {value}")
            if key == "annotations" and not _has_valid_values(row):
                values = short_repr({k: row.get(k) for k in ("bbox", "area", "iscrowd")}, ROW_LENGTH)
                raise UserError(
                    f"{where}: expected four finite numbers as 'bbox', a number as 'area', "
                    f"0 or 1 as 'iscrowd', found {values}"
                )


def _has_valid_values(row: Mapping[str, Any]) -> bool:
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
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        return False
    return -MAX_ID <= int(value) <= MAX_ID
