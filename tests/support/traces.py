"""Traces of tiny random models, and records of both kinds, for tests of the lens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from detrscope.core.edits import Bias, Gain
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.probe import Probe
from detrscope.core.records import Record
from detrscope.core.types import Level
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine
from detrscope.ops.attention import attend
from detrscope.ops.deformable import sample
from detrscope.trace_interface import Trace
from tests.support.tiny_models import tiny

LEVELS = (Level(5, 7), Level(3, 4))
TOKENS = 5 * 7 + 3 * 4


def detector_of(variant: str, short_side: int = 64, long_side: int = 96) -> Detector:
    loaded = tiny(variant)
    preprocessing = loaded.card.preprocessing.with_resize_of(Preprocessing(short_side, long_side))
    return Detector(
        TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.float32),
        replace(loaded.card, preprocessing=preprocessing),
    )


def picture(height: int = 50, width: int = 90, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@cache
def traced(variant: str, explain: tuple[int, ...] = ()) -> Trace:
    """The same one for everybody: not to be changed."""
    return detector_of(variant).trace(picture(), explain=explain)


def dense_record(queries: int = 11) -> Record:
    """Softmax attention with padding, a mask, a bias and a muted head."""
    generator = torch.Generator().manual_seed(0)
    probe = Probe(
        edits=[
            Bias("a", torch.randn(4, queries, TOKENS, generator=generator)),
            Gain("a", 0.5, heads=(1,), queries=(2, 3), keys=(0, 5)),
        ]
    )
    q, k, v = (torch.randn(1, n, 32, generator=generator) for n in (queries, TOKENS, TOKENS))
    padding = torch.zeros(1, TOKENS, dtype=torch.bool)
    padding[:, -3:] = True
    mask = torch.rand(queries, TOKENS, generator=generator) < 0.2
    attend(q, k, v, heads=4, site="a", padding=padding, mask=mask, probe=probe)
    return probe.records["a"]


def deformable_record(queries: int = 11) -> Record:
    """Points of two levels, some of them outside, some on the same token; some keys muted, of some heads only."""
    generator = torch.Generator().manual_seed(0)
    edits = [
        Gain("a", 0.5, keys=(0, 5, 17, 40)),
        Gain("a", 0.0, heads=(1, 2), queries=(3,), keys=tuple(range(9))),
    ]
    probe = Probe(edits=[*edits, Gain("a", 0.2, heads=(3,), points=(1,))])
    points = torch.rand(1, queries, 4, 6, 2, generator=generator) * 1.4 - 0.2
    points[:, 0, :, 1] = points[:, 0, :, 0]
    sample(
        torch.randn(1, TOKENS, 4, 8, generator=generator),
        points,
        torch.randn(1, queries, 4, 6, generator=generator),
        levels=LEVELS,
        point_levels=(0, 0, 1, 0, 1, 1),
        reference=torch.rand(1, queries, 2, 2, generator=generator),
        site="a",
        probe=probe,
    )
    return probe.records["a"]
