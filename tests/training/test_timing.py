"""The time left: not said before steps are warm, and close afterwards."""

from __future__ import annotations

import pytest

from detrscope.training import timing as module
from detrscope.training.timing import COLD, MEASURED, Clock


class Time:
    """A clock that a test turns."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(module, "time", time)
    return time


def take(clock: Clock, time: Time, seconds: float, count: int = 1) -> None:
    for _ in range(count):
        time.now += seconds
        clock.step()


def test_slow_first_steps_are_not_counted(time: Time) -> None:
    clock = Clock(10, 100)
    take(clock, time, 60.0, COLD)
    take(clock, time, 1.0, MEASURED - 1)
    assert clock.left(COLD + MEASURED - 1) == "?"
    take(clock, time, 1.0)
    assert clock.seconds_left(COLD + MEASURED) == pytest.approx(100 - COLD - MEASURED)


def test_evaluations_and_snapshots_are_counted(time: Time) -> None:
    evaluate_every, steps = 20, 200
    clock = Clock(10, steps, {"evaluation": evaluate_every}, {"evaluation": 2.0})
    estimates: dict[int, float] = {}
    for step in range(1, steps + 1):
        take(clock, time, 9.0 if step <= COLD else 1.0)
        if step % evaluate_every == 0:
            with clock.other("evaluation"):
                time.now += 7.0
        left = clock.seconds_left(step)
        if left is not None:
            estimates[step] = left + time.now
    early = [total for step, total in estimates.items() if step >= steps / 10]
    assert max(early) < 1.2 * time.now and min(early) > time.now / 1.2
    assert estimates[steps] == pytest.approx(time.now)


def test_estimate_follows_a_slower_machine(time: Time) -> None:
    clock = Clock(10, 1000)
    take(clock, time, 0.1, 300)
    take(clock, time, 1.0, 200)
    assert clock.seconds_left(500) == pytest.approx(500)
