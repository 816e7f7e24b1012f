"""What looking costs: a trace of all sites beside the plain forward, and its memory beside per-head maps.

python -m benchmarks.trace [--rounds 7]

Random weights, one image of 800x1066; time is the work of all threads, which other programs on the machine disturb
least. The maps of every head are those that `output_attentions=True` of transformers
gives, which hooks on its layers would gather as well; its fast attention cannot give them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import detrscope as ds
from benchmarks.ratio import compare, machine
from detrscope.lens.incoming_attention import incoming_from_tokens
from detrscope.lens.relevance import relevance
from detrscope.lens.rollout import rollout

HEIGHT, WIDTH = 800, 1066
MEBI = 2**20


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(machine())
    image = torch.randint(
        0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for name in ("detr-r50", "deformable-detr-r50"):
        detector = ds.load(name, weights="random", device="cpu")
        compare(
            f"{name}, 1 x {HEIGHT} x {WIDTH}, seconds of work",
            {
                "detect": lambda d=detector: d.detect(image, 0.0),
                "trace of all sites": lambda d=detector: d.trace(image),
                "trace, values too": lambda d=detector: d.trace(image, values=True),
            },
            rounds=rounds,
            clock=time.process_time,
        )
        ask(name, detector.trace(image, explain=[3]))
    with_maps(image, rounds)


def _drawn(trace: ds.Trace) -> None:
    with TemporaryDirectory() as folder:
        ds.draw(trace, "per-query", ds.ViewOptions(queries=tuple(range(10)))).save(
            Path(folder) / "per-query.png"
        )


def ask(name: str, trace: ds.Trace) -> None:
    """How long questions to a trace take, and how large it is."""
    point = (500.0, 300.0)
    questions: dict[str, Callable[[], Any]] = {
        "a row of the last encoder layer, all heads": lambda: trace.self_attention(point=point),
        "a row of the last decoder layer, all heads": lambda: trace.cross_attention(3),
        "who looks here, last encoder layer": lambda: incoming_from_tokens(trace, point),
        "a row on the pixels of the image": lambda: trace.cross_attention(3).on_image(),
        "rollout of a query, all layers": lambda: rollout(trace, query=3),
        "relevance for a query, all layers": lambda: relevance(trace, 3),
        "per-query of ten queries, drawn and saved": lambda: _drawn(trace),
    }
    table = Table("question", "first ms", "median ms", title=f"{name}: questions to a trace")
    for what, question in questions.items():
        seconds = []
        for _ in range(4):
            start = time.process_time()
            question()
            seconds.append(1e3 * (time.process_time() - start))
        table.add_row(what, f"{seconds[0]:.1f}", f"{median(seconds):.1f}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "one.trace"
        table.add_row("save", *2 * [f"{1e3 * _seconds(lambda: trace.save(path)):.0f}"])
        table.add_row("load", *2 * [f"{1e3 * _seconds(lambda: ds.Trace.load(path)):.0f}"])
        table.caption = f"file {path.stat().st_size / MEBI:.0f} MiB with values, gradients and the original"
    Console(width=120).print(table)


def with_maps(image: Tensor, rounds: int) -> None:
    """Compare transformers with the maps of all heads against without, and the memory of maps and records."""
    from transformers import DetrConfig, DetrForObjectDetection, TimmBackboneConfig

    body = TimmBackboneConfig(backbone="resnet50", use_pretrained_backbone=False, out_indices=[4])
    theirs = {
        kind: DetrForObjectDetection(DetrConfig(backbone_config=body, attn_implementation=kind)).eval()
        for kind in ("sdpa", "eager")
    }
    detector = ds.load("detr-r50", weights="random", device="cpu")
    images = detector.card.preprocessing.normalise(image)[None]
    with torch.inference_mode():
        compare(
            "detr-r50 of transformers, seconds of work",
            {
                "no maps, fast attention": lambda: theirs["sdpa"](images),
                "maps of every head": lambda: theirs["eager"](images, output_attentions=True),
            },
            rounds=rounds,
            clock=time.process_time,
        )
        found = theirs["eager"](images, output_attentions=True)
    maps = (*found.encoder_attentions, *found.decoder_attentions, *found.cross_attentions)
    theirs_bytes = sum(one.nbytes for one in maps)
    table = Table("kept of all 18 sites", "MiB", "ratio", title="memory")
    table.add_row("maps of every head", f"{theirs_bytes / MEBI:.1f}", "1")
    for what, values in (("records", False), ("records with values", True)):
        size = sum(_bytes(record) for record in detector.trace(image, values=values).records.values())
        table.add_row(what, f"{size / MEBI:.1f}", f"{size / theirs_bytes:.3f}")
    Console(width=120).print(table)


def _bytes(record: Any) -> int:
    """Memory that a record holds on to: the storage behind each tensor, once."""
    values = [getattr(record, f.name) for f in fields(record)]
    storages = {
        v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in values if isinstance(v, Tensor)
    }
    return sum(storages.values())


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
