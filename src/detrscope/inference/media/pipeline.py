"""Stages in threads of their own, joined by short queues: memory does not grow with the number of items."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

POLL = 0.1  # seconds between two looks at whether to stop, while a stage waits
JOIN_TIMEOUT = 10.0  # seconds that a stage may take to stop
READER_JOIN_TIMEOUT = 1.0  # of the first stage, which may wait for a camera or a network
_END = object()

StageFunction = Callable[[Iterator[Any]], Iterator[Any]]


class PipelineStopped(Exception):
    """Raised in a stage that waits for an item, when there will be none: clean up and end."""


@dataclass
class StageTime:
    """How long a stage worked.

    Attributes:
        name: name of the stage.
        busy: seconds in its own code, not waiting for other stages.
        cpu: CPU seconds of its own thread; helper threads of libraries are not counted.
    """

    name: str
    busy: float = 0.0
    cpu: float = 0.0


class Pipeline(Iterator[Any]):
    """Iterator over what the last of several stages yields, in order.

    Each stage takes an iterator over what the one before it yields (the first one an empty iterator). It is closed by
    `PipelineStopped` when an error in another stage, or `close`, ends the work. The first error is raised by
    `__next__`.

    Args:
        stages: name and function of each stage, first to last.
        waiting: capacity of the queue behind each stage.
    """

    def __init__(self, stages: Sequence[tuple[str, StageFunction]], waiting: Sequence[int]) -> None:
        self.times = tuple(StageTime(name) for name, _ in stages)
        self._queues = [queue.Queue[Any](size) for size in waiting]  # behind each stage
        self._stop, self._ending = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._finished = False
        self._threads = [
            threading.Thread(target=self._run, args=(number, function), name=f"detrscope {name}", daemon=True)
            for number, (name, function) in enumerate(stages)
        ]
        for thread in self._threads:
            thread.start()

    def __next__(self) -> Any:
        while not self._finished:
            try:
                item = self._queues[-1].get(timeout=POLL)
            except queue.Empty:
                if not self._stop.is_set():
                    continue
                item = _END
            if item is _END:
                self._finished = True
                self._join()
                break
            return item
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def has_work_waiting(self) -> bool:
        """Return whether the first stage is ahead of the second."""
        return not self._queues[0].empty()

    def end(self) -> None:
        """Let the first stage end where it is; everything that it has yielded is still worked on."""
        self._ending.set()

    def close(self) -> None:
        """Stop all stages now; what waits between them is dropped."""
        self._stop.set()
        self._finished = True
        self._join()

    def _run(self, number: int, function: StageFunction) -> None:
        """Run a stage until its input ends, or until it must stop."""
        times, waited = self.times[number], [0.0]
        items: Iterator[Any] = iter(())
        try:
            items = function(self._receive(number, waited) if number else iter(()))
            while True:
                start, waited[0] = time.perf_counter(), 0.0
                item = next(items, _END)
                times.busy += time.perf_counter() - start - waited[0]
                times.cpu = time.thread_time()
                if item is not _END and not (number == 0 and self._ending.is_set()):
                    self._send(number, item)
                    continue
                _close(items)
                self._send(number, _END)
                return
        except PipelineStopped:
            _close(items)
        except BaseException as error:  # of any kind, Ctrl-C in a test among them: raised by `__next__`
            with self._lock:
                self._error = self._error or error
            self._stop.set()

    def _receive(self, number: int, waited: list[float]) -> Iterator[Any]:
        """Yield what the stage before gives; `waited` is increased by the seconds of waiting."""
        while True:
            start = time.perf_counter()
            item = self._waiting(number)
            waited[0] += time.perf_counter() - start
            if item is _END:
                return
            yield item

    def _waiting(self, number: int) -> Any:
        while not self._stop.is_set():
            try:
                return self._queues[number - 1].get(timeout=POLL)
            except queue.Empty:
                if number == 1 and self._ending.is_set():
                    return _END  # the first stage may wait for a camera: not for that
        raise PipelineStopped

    def _send(self, number: int, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return self._queues[number].put(item, timeout=POLL)
            except queue.Full:
                continue
        raise PipelineStopped

    def _join(self) -> None:
        for number, thread in enumerate(self._threads):
            if thread is not threading.current_thread():  # which may be the one that collects garbage
                thread.join(JOIN_TIMEOUT if number else READER_JOIN_TIMEOUT)


def _close(items: Iterator[Any]) -> None:
    if isinstance(items, Generator):
        items.close()
