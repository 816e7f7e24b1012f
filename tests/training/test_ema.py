"""Running average of the weights."""

from __future__ import annotations

import pytest
from torch import nn

from detrscope.training.ema import Ema
from detrscope.training.train_config import EmaConfig
from tests.support.tiny_training import TinyDetector


def test_ema_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = Ema(model, decay=0.9, warmup_steps=0)
    average = 1.0
    for step, weight in enumerate((2.0, 4.0, 3.0), start=1):
        nn.init.constant_(model.weight, weight)
        ema.update(step)
        average = 0.9 * average + 0.1 * weight
    assert float(ema.model.weight) == pytest.approx(average)
    assert not ema.model.weight.requires_grad and not ema.model.training


def test_ema_warms_up_and_copies_counters() -> None:
    model = TinyDetector()
    ema = Ema(model, EmaConfig().decay, warmup_steps=100)
    assert ema.decay_at(1) < 0.01 and ema.decay_at(1000) == pytest.approx(0.9997, abs=1e-4)
    model.backbone[1].num_batches_tracked += 7
    model.backbone[1].running_mean += 1
    ema.update(1)
    assert int(ema.model.backbone[1].num_batches_tracked) == 7
    assert ema.model.backbone[1].running_mean.mean() == pytest.approx(1 - ema.decay_at(1), abs=1e-5)
