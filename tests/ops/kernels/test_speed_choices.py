"""Choices by speed: made once, taken over from the start of a run."""

from __future__ import annotations

import pytest
import torch

from detrscope.ops.kernels import native_precision, speed_choices
from detrscope.ops.kernels.speed_choices import choose, keep_speed_choices
from detrscope.ops.kernels.speed_choices import speed_choices as choices_made


@pytest.fixture(autouse=True)
def no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_choices, "_ANSWERS", {})


def test_question_is_measured_once() -> None:
    answers = iter([True])
    assert choose("fast", lambda: next(answers)) and choose("fast", lambda: next(answers))
    assert choices_made()["fast"] is True


def test_choices_of_a_run_replace_measurements() -> None:
    saved = {
        **choices_made(),
        f"native {torch.bfloat16}": False,
        f"oneDNN's products of {torch.float32}": False,
    }
    keep_speed_choices(saved)
    assert not native_precision.is_native_precision(torch.bfloat16)
    assert not native_precision.onednn_multiplies(torch.float32)


def test_choices_of_another_machine_are_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    keep_speed_choices({"machine": "pdp11", "fast": True})
    assert "fast" not in choices_made()
