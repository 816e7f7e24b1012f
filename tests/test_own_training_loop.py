"""The example of a training loop of one's own learns, and its checkpoint works everywhere."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest

import detrscope as ds
from detrscope.data.open_dataset import open_dataset
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "own_training_loop.py"
SOURCE = "drawn-dogs:count=32,val=4,size=64"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("own_training_loop", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_loss_falls_and_the_checkpoint_detects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
    losses = example().train(SOURCE, tmp_path / "mine.safetensors", epochs=6, side=64)
    assert len(losses) == 6 and all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.8 * losses[0]
    assert capsys.readouterr().out.count("IoU of matched boxes") == 6
    detector = ds.load(tmp_path / "mine.safetensors", device="cpu")
    assert detector.classes.names == ("dog",) and detector.card.preprocessing.short_side == 64
    (image, *_) = open_dataset(SOURCE, "val").images
    found = detector.detect(image.path, threshold=0.0)
    assert len(found) and set(found.names) == {"dog"}


@pytest.mark.parametrize("words", [(), ("one",), ("a", "b", "many"), ("a", "b", "0")])
def test_wrong_words_print_the_usage(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words])
    with pytest.raises(SystemExit) as stopped:
        example().main()
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and not captured.out
    assert captured.err.startswith("usage: python")
