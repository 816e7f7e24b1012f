"""docs/formats.md names every field of every file, and no other."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest
import torch

import detrscope as ds
from detrscope.core import edits, model_card, operating_points, records, snapshot, trace_file, types
from detrscope.core.edit_file import FORMAT as EDITS
from detrscope.core.geometry import Geometry
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.snapshot_file import CLASSES as SNAPSHOT_CLASSES
from detrscope.core.snapshot_file import VERSION as SNAPSHOT
from detrscope.core.trace_data import TraceData
from detrscope.inference.graph_interface import GraphSite
from detrscope.inference.graph_metadata import FORMAT as GRAPH
from detrscope.inference.graph_metadata import GraphMetadata
from detrscope.synthetic.scene import VERSION as DRAWING
from detrscope.training.train_state import FORMAT as STATE
from tests.conftest import ROOT
from tests.support.scripts import load_script

PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
OLD_RUN = ROOT / "tests" / "formats" / "run"


def documented(heading: str) -> set[str]:
    """Return the names in the first column of the table under a heading."""
    section = re.split(r"^#+ ", PAGE.partition(f"### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    assert rows, f"docs/formats.md has no table under '{heading}'"
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def names(cls: type) -> set[str]:
    return {f.name for f in fields(cls)}


DATACLASSES = [
    TraceData,
    Geometry,
    *(records.DenseRecord, records.DeformableRecord, records.Gradient),
    *(types.Masks, types.Target, types.Regions, types.Windows),
    *(edits.Bias, edits.Gain, edits.KeyBias, edits.Swap),
    *(snapshot.SnapshotStep, snapshot.ProbeSnapshot, snapshot.FeatureMaps),
    GraphSite,
]


@pytest.mark.parametrize("cls", DATACLASSES)
def test_fields_of_a_dataclass_are_documented(cls: type) -> None:
    assert documented(cls.__name__) == names(cls)


def test_every_class_of_a_file_is_documented() -> None:
    assert {*trace_file.CLASSES, *SNAPSHOT_CLASSES} <= {cls.__name__ for cls in DATACLASSES}


def test_card_and_its_parts_are_documented() -> None:
    assert documented("Model card") == set(model_card.CardFields.model_fields)
    assert documented("Class of a model card") == set(model_card.ClassRow.model_fields)
    assert documented("Preprocessing") == names(Preprocessing)
    assert documented("Thresholds") == set(operating_points.ThresholdFields.model_fields)
    assert documented("Curve of thresholds") == set(operating_points.ClassCurveFields.model_fields)
    assert documented("GraphMetadata") == names(GraphMetadata) | {"format"}


def test_card_of_the_shipped_model_has_the_documented_fields() -> None:
    card = ds.load("sprint-dense-n").card.to_json()
    assert documented("Model card") >= set(card)
    assert documented("Preprocessing") == set(card["preprocessing"])


def test_columns_of_an_old_run_are_documented() -> None:
    for file, heading in (("metrics", "Columns of metrics"), ("attention", "Columns of attention")):
        first = (OLD_RUN / f"{file}.jsonl").read_text().splitlines()[0]
        known = "|".join(
            re.sub(r"[A-Z]{2,}", "WORD", re.escape(name)).replace("WORD", r"[\w.* ]+?")
            for name in documented(heading)
        )
        unknown = [column for column in json.loads(first) if not re.fullmatch(known, column)]
        assert not unknown, f"docs/formats.md, {heading}: {unknown}"


def test_training_state_is_documented() -> None:
    state = torch.load(OLD_RUN / "last.pt", weights_only=True)
    assert documented("State") >= set(state)


def test_settings_are_up_to_date() -> None:
    settings = load_script("settings")
    assert settings.page_with(settings.table()) == PAGE, "run scripts/settings"
    assert settings.page_with("another table") != PAGE


def test_format_numbers_are_those_of_the_code() -> None:
    numbers = {
        "checkpoint": model_card.FORMAT,
        "trace": trace_file.VERSION,
        "snapshot": SNAPSHOT,
        "exported model": GRAPH,
        "edits": EDITS,
        "training state": STATE,
        "drawn dogs": DRAWING,
    }
    table = dict(re.findall(r"^\| ([a-z ]+), [^|]+\|[^|]+\| (\d+) \|", PAGE, re.MULTILINE))
    assert {name: int(number) for name, number in table.items()} == numbers
