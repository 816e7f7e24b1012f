"""Choices between operators that rest on a measurement of speed: made once per process, kept with a training run.

Rounding depends on them. A busy machine can mislead a measurement, so that a resumed run takes the choices of its
start rather than measuring again.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping

import torch

from detrscope.console import log

_ANSWERS: dict[str, bool] = {}  # of this process, by question


def choose(question: str, measure: Callable[[], bool]) -> bool:
    """Return the answer to a question about this machine, measured when it is first asked."""
    if question not in _ANSWERS:
        _ANSWERS[question] = measure()
    return _ANSWERS[question]


def speed_choices() -> dict[str, bool | str]:
    """Return the choices made so far in this process by question, and under `machine` what they hold for."""
    return {**_ANSWERS, "machine": _machine()}


def keep_speed_choices(choices: Mapping[str, bool | str]) -> None:
    """Take over the choices of another process, where they were made on such a machine."""
    if choices.get("machine") != _machine():
        log.info("another machine or version of torch than before: numbers may differ in their last digits")
        return
    _ANSWERS.update({question: answer for question, answer in choices.items() if isinstance(answer, bool)})


def _machine() -> str:
    """Return what decides which operators there are: instruction set, limits on it, version of torch."""
    limits = [
        os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "DETRSCOPE_ONEDNN")
    ]
    parts = [platform.machine(), torch.backends.cpu.get_cpu_capability(), *limits, torch.__version__]
    return " ".join(parts)
