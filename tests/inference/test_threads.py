"""One detector in eight threads at once: the detections of one thread, also while edits differ among them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import detrscope as ds
from tests.support.equality import same
from tests.support.traces import picture

THREADS = 8
EDITS = (
    (),
    ("decoder.*.cross: heads 1 x0",),
    ("decoder.1.self: x0.5",),
    ("encoder.*.self: heads 0,1 x0",),
    ("decoder.*.cross: hide region 5,5,40,30",),
)
PICTURES = [picture(40 + 3 * number, 90 - 4 * number, seed=number) for number in range(8)]


@cache
def detectors() -> tuple[ds.Detector, ...]:
    """One model, and the same with edits."""
    detector = ds.load("sprint-dense-n", device="cpu", precision="fp32")
    return tuple(detector.edited(edits) for edits in EDITS)


def detect(number: int, edited: bool) -> ds.Detections:
    index = number % len(EDITS) if edited else 0
    return detectors()[index].detect(PICTURES[number % len(PICTURES)], threshold=0.0)


def check(edited: bool, total: int) -> None:
    period = len(EDITS) * len(PICTURES)
    alone = [detect(number, edited) for number in range(period)]
    if edited:
        first = {detect(8 * i, True).scores.sum().item() for i in range(len(EDITS))}
        assert len(first) == len(EDITS)  # the edits do change what is detected
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda number: detect(number, edited), range(total)))
    for number, found in enumerate(together):
        assert same(found, alone[number % period]), number


def test_eight_threads_detect_what_one_does(one_thread: None) -> None:
    check(edited=False, total=1024)


def test_edits_of_one_thread_do_not_reach_another(one_thread: None) -> None:
    check(edited=True, total=400)


def test_traces_of_eight_threads_have_their_own_records(one_thread: None) -> None:
    def trace(number: int) -> ds.Trace:
        return detectors()[0].trace(PICTURES[number % 8], edits=EDITS[number % len(EDITS)])

    alone = [trace(number) for number in range(40)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(trace, range(80)))
    for number, found in enumerate(together):
        assert same(dict(found.records), dict(alone[number % 40].records)), number
        assert found.edits == alone[number % 40].edits
