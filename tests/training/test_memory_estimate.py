"""Lower bound of the memory of a training."""

from __future__ import annotations

import pytest
import torch

from detrscope import families
from detrscope.core.errors import UserError
from detrscope.training import memory_estimate
from detrscope.training.config import resolve_training_config
from detrscope.training.memory_estimate import check_memory, estimate_memory


@pytest.mark.parametrize("variant", list(families.VARIANTS))
def test_every_variant_has_an_estimate_that_grows_with_the_batch(variant: str) -> None:
    small, large = (
        estimate_memory(
            resolve_training_config(overrides={"model.variant": variant, "data.batch_size": size}), classes=5
        )
        for size in (1, 8)
    )
    assert 0 < small < large


def test_a_training_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve_training_config(overrides={"model.variant": "sprint-dense-n", "data.batch_size": 1})
    needed = estimate_memory(config, classes=5)
    monkeypatch.setattr(memory_estimate, "free_memory_for_pixels", lambda: needed)
    check_memory(config, 5, torch.device("cpu"))
    monkeypatch.setattr(memory_estimate, "free_memory_for_pixels", lambda: needed - 1)
    with pytest.raises(UserError, match=r"needs at least .* use fewer queries"):
        check_memory(config, 5, torch.device("cpu"))
