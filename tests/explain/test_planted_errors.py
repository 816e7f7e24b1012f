"""Errors planted into runs of the shipped model: their stages are read back (a short form of the benchmark)."""

from __future__ import annotations

from benchmarks.planted_errors import WANTED, run

import detrscope as ds
from detrscope.core.verdicts import MEANINGS
from detrscope.data.open_dataset import open_dataset


def test_stages_of_planted_errors_are_read_back() -> None:
    dataset = open_dataset("drawn-dogs:count=4,val=150,test=2", "val")
    tallies = run(ds.load("sprint-dense-n", device="cpu", precision="fp32"), dataset, count=3, seed=1)
    assert set(tallies) == set(MEANINGS)
    assert all(tally.count >= 2 for tally in tallies.values()), tallies
    assert sum(t.right for t in tallies.values()) >= WANTED * sum(t.count for t in tallies.values()), tallies
    assert tallies["duplicate"].proved >= 2
