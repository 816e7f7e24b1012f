"""Result files."""

import json
from pathlib import Path
from typing import Any

import pytest

from detrscope.core.errors import UserError
from detrscope.evaluation.results_file import read_results, write_results

GOOD: dict[str, Any] = {"image_id": 3, "category_id": 900, "bbox": [0.1, 2, 3, 4.000001], "score": 1 / 3}


def test_written_results_are_read_back(tmp_path: Path) -> None:
    path = write_results(tmp_path / "new" / "results.json", [GOOD, GOOD])
    assert read_results(path) == [GOOD, GOOD]
    assert json.loads(path.read_text()) == [GOOD, GOOD]


def test_no_results_are_a_list(tmp_path: Path) -> None:
    assert read_results(write_results(tmp_path / "results.json", [])) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"annotations": []}, "expected a list of COCO results, found dict"),
        ([GOOD, 3], "result 2: expected an object, found int"),
        ([{k: v for k, v in GOOD.items() if k != "score"}], "result 1: 'score' is missing"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "result 1: 'bbox' must be four numbers"),
        ([{**GOOD, "score": "high"}], "result 1: 'score' must be a number"),
        ([{**GOOD, "category_id": "dog"}], "result 1: 'category_id' must be a whole number"),
    ],
)
def test_problems_are_named(tmp_path: Path, rows: Any, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError) as error:
        read_results(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: cannot be read"):
        read_results(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('[{"image_id"')
    with pytest.raises(UserError, match=r"half\.json: not valid JSON"):
        read_results(tmp_path / "half.json")
