"""Stages in threads: order, bounds, errors, the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from detrscope.inference.media.pipeline import Pipeline, PipelineStopped


def numbers(count: int) -> Any:
    return ("numbers", lambda _: iter(range(count)))


def doubled(items: Iterator[int]) -> Iterator[int]:
    for item in items:
        yield 2 * item


def test_items_come_in_order() -> None:
    pipeline = Pipeline((numbers(100), ("double", doubled), ("again", doubled)), (2, 2, 2))
    assert list(pipeline) == [4 * i for i in range(100)]
    assert [stage.name for stage in pipeline.times] == ["numbers", "double", "again"]


def test_first_stage_runs_only_a_few_items_ahead() -> None:
    made: list[int] = []

    def make(_: Iterator[int]) -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    pipeline = Pipeline((("make", make), ("double", doubled)), (2, 3))
    assert next(pipeline) == 0
    time.sleep(0.3)
    assert len(made) <= 10  # 1 taken, 3 and 2 that wait, 1 in each stage
    pipeline.close()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_error_of_any_stage_is_raised_and_closes_the_others(stage: int) -> None:
    closed: list[int] = []

    def work(number: int) -> Any:
        def run(items: Iterator[int]) -> Iterator[int]:
            try:
                for i in range(1000) if number == 0 else items:
                    if number == stage and i == 5:
                        raise KeyError("five")
                    yield i
            except (PipelineStopped, GeneratorExit):
                closed.append(number)
                raise

        return f"stage {number}", run

    pipeline = Pipeline([work(i) for i in range(3)], (2, 2, 2))
    with pytest.raises(KeyError, match="five"):
        list(pipeline)
    assert sorted(closed) == [i for i in range(3) if i != stage]
    assert list(pipeline) == []


def test_close_stops_every_thread_at_once() -> None:
    pipeline = Pipeline((numbers(10**9), ("double", doubled)), (2, 2))
    next(pipeline)
    start = time.monotonic()
    pipeline.close()
    assert time.monotonic() - start < 2
    assert not [t for t in threading.enumerate() if t.name in ("detrscope numbers", "detrscope double")]


def test_end_finishes_what_was_read_without_waiting_for_more() -> None:
    never, read = threading.Event(), threading.Event()

    def camera(_: Iterator[int]) -> Iterator[int]:
        yield 1
        yield 2
        read.set()
        never.wait(20)  # as a camera without a frame

    pipeline = Pipeline((("camera", camera), ("double", doubled)), (2, 2))
    assert next(pipeline) == 2 and read.wait(5)
    pipeline.end()
    start = time.monotonic()
    assert list(pipeline) == [4]
    assert time.monotonic() - start < 5
    never.set()


def test_busy_time_leaves_waiting_out() -> None:
    def slow(_: Iterator[int]) -> Iterator[int]:
        for i in range(5):
            time.sleep(0.05)
            yield i

    pipeline = Pipeline((("slow", slow), ("double", doubled)), (2, 2))
    list(pipeline)
    assert pipeline.times[0].busy > 0.2 and pipeline.times[1].busy < 0.1
