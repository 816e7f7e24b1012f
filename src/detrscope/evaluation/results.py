"""Files of results in COCO's format: a list of {image_id, category_id, bbox [x, y, width, height], score}."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrscope.console import written_whole
from detrscope.core.errors import UserError


def write_results(path: str | Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Write results, a line each, whole or not at all."""
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n")
    return Path(path)


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Read results and check that they have the form.

    Raises:
        UserError: no such file, no JSON, or a result without a key or with a value of another kind.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(results, list):
        raise UserError(f"{path}: expected a list of COCO results, found {type(results).__name__}")
    for number, result in enumerate(results, start=1):
        problem = _problem(result)
        if problem:
            raise UserError(f"{path}: result {number}: {problem}")
    return results


def _problem(result: Any) -> str:
    """What is wrong with a result; empty where nothing is."""
    if not isinstance(result, dict):
        return f"expected an object, found {type(result).__name__}"
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in result]
    if missing:
        return f"'{missing[0]}' is missing"
    box = result["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"'bbox' must be four numbers [x, y, width, height], found {box!r}"
    if not _is_number(result["score"]):
        return f"'score' must be a number, found {result['score']!r}"
    if not isinstance(result["category_id"], int):
        return f"'category_id' must be a whole number, found {result['category_id']!r}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
