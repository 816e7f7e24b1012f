"""Attention on parts of objects: masses, areas and means over objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detrscope.core.geometry import Geometry
from detrscope.core.snapshot import snapshot_record
from detrscope.core.types import Level
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.open_dataset import open_dataset
from detrscope.data.part_masks import read_part_mask
from detrscope.recording.part_attention import PartAttention, PartMeter, part_attention_row
from detrscope.recording.probe_images import open_probe_images
from detrscope.trace_interface import Trace
from detrscope.training.config import resolve_training_config
from tests.support.traces import detector_of


def trace_of_rows(side: int, rows: torch.Tensor) -> Trace:
    """A trace of a square image whose last cross-attention over 4x4 tokens has the rows [Q, 16]."""
    trace = detector_of("sprint-dense-n").trace(torch.zeros(3, side, side, dtype=torch.uint8))
    return replace(
        trace,
        geometry=Geometry.of_resize(side, side, (side, side)),
        levels=(Level(4, 4),),
        records={trace.site("decoder.cross"): snapshot_record(rows)},
    )


def test_mass_on_parts_equals_counted_pixels(tmp_path: Path) -> None:
    """Cells are squares of sixteen pixels here: each pixel has a 256th of its cell's weight."""
    write_drawn(tmp_path / "dogs", count=10, size=64, seed=1)
    training = open_dataset(f"coco:{tmp_path / 'dogs'}", "train")
    config = resolve_training_config(
        overrides={"train.recording": {"images": f"coco:{tmp_path / 'dogs'}", "count": 3}}
    )
    probes = open_probe_images(config, training.classes, training, None)
    meter = PartMeter(probes)
    rows = torch.rand(5, 16, generator=torch.Generator().manual_seed(0)).softmax(-1).half()
    ids = torch.tensor([2, 3, 5, 7, 9])
    every = torch.zeros(10, 16)
    every[ids] = rows.float()
    trace = trace_of_rows(64, every)
    for probe in probes:
        parts, instance, _ = read_part_mask(probe.path)
        matched = {index: int(ids[-1 - index]) for index in range(len(probe.labels))}
        measured = meter.measure(probe.name, trace, matched)
        for index in matched:
            pixels = np.kron(rows[len(ids) - 1 - index].float().view(4, 4).numpy(), np.ones((16, 16))) / 256
            own = instance == index + 1
            wanted = {"object": own, "ears": own & (parts == 3), "background": instance == 0}
            for name, mask in wanted.items():
                if mask.any():
                    expected = (float(pixels[mask].sum()), float(mask.mean()))
                    pairs = [(part.mass, part.area) for part in measured if part.name == name]
                    assert any(pair == pytest.approx(expected, abs=1e-5) for pair in pairs), name


def test_a_row_averages_over_objects_that_show_the_part() -> None:
    parts = [
        PartAttention("ears", 0.2, 0.01),
        PartAttention("background", 0.5, 0.9),
        PartAttention("ears", 0.4, 0.03),
    ]
    row = part_attention_row(50, 1 / 3, parts)
    assert row == pytest.approx(
        {
            "step": 50,
            "epoch": 0.3333,
            "mass/ears": 0.3,
            "area/ears": 0.02,
            "objects/ears": 2,
            "mass/background": 0.5,
            "area/background": 0.9,
            "objects/background": 1,
        }
    )
