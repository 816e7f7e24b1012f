"""`detrscope faithfulness` from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from detrscope.cli import main
from detrscope.commands import faithfulness as command
from detrscope.data.drawn_dogs import write_drawn
from detrscope.explain import sanity


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dogs") / "set"
    write_drawn(folder, count=1, seed=0, start=10_000_009)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["detrscope", "faithfulness", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_tables_and_json(
    dogs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One real run on one dog, shown both ways; of the stages of the sanity check the first and the last."""
    every = sanity.sanity_stages
    monkeypatch.setattr(sanity, "sanity_stages", lambda model: [[*every(model)][i] for i in (0, -1)])
    real, found = command.faithfulness, []
    monkeypatch.setattr(command, "faithfulness", lambda *a, **k: found.append(real(*a, **k)) or found[-1])
    few = ("--data", str(dogs), "--split", "train", "--steps", "2", "--method", "rollout", "--sanity", "1")
    assert run(monkeypatch, *few, "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert {s["method"] for s in tree["summaries"]} == {"rollout", "random"}
    assert all(len(s["scores"]) == 3 for s in tree["summaries"])
    assert [s["method"] for s in tree["sanity"]] == ["rollout"]
    monkeypatch.setattr(command, "faithfulness", lambda *a, **k: found[0])
    assert run(monkeypatch, *few) == 0
    shown = capsys.readouterr().out
    assert "rollout" in shown and "keys, deletion" in shown and "random" in shown and "backbone" in shown
    assert "of the score remains" in shown


def test_a_wrong_method_is_exit_code_2(
    dogs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--data", str(dogs), "--method", "relevence") == 2
    error = capsys.readouterr().err
    assert "method 'relevence' is not known; did you mean 'relevance'?" in error and "Traceback" not in error
