"""The benchmark of flat memory, in short: each part runs, and says how much memory there is."""

from __future__ import annotations

import pytest
from benchmarks.memory_flat import GROWTH, PARTS, growth, measure


def test_growth_compares_the_ends() -> None:
    assert growth([100.0] * 10) == 0
    leak = [100.0 + 19 * moment for moment in range(10)]  # 0.19 MiB, 1,000 times
    assert growth(leak) > 5 * GROWTH


@pytest.mark.parametrize("part", ["detections", "requests"])
def test_memory_is_flat(part: str) -> None:
    values = measure(part, 100)
    assert len(values) == 10 and min(values) > 50
    assert growth(values) < 4 * GROWTH  # of few, while caches still fill


def test_parts_are_those_of_the_docs() -> None:
    assert list(PARTS) == ["steps", "detections", "requests"]
