"""Today's detectors beside transformers with the same random weights, and beside a bare OpenVINO export of these.

python -m benchmarks.todays_detectors [--variants rtdetr-r18,dfine-n] [--tables transformers together bare] [--rounds 5]

One image of the square size that the variant is published for, prepared; float32 on all sides, the default number of
threads. transformers' model is saved and loaded as ours, so that both have the same weights; outputs are compared
first. In the table `transformers` each side runs in a process of its own, as it does in use, and they take turns; in
`together` all run in this process, where transformers' model gains from the memory that ours keeps
(docs/machines.md). The bare export is `openvino.convert_model` of transformers' model (traced at that size), run by
OpenVINO's own call; ours is `engine openvino`, the file of `detrscope export`, with any size. These two are compared in
a table of their own: torch's threads wait for more work for some milliseconds after their last one, and whatever runs
next would be slowed down by them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hub_models import MODELS, hub_model
from benchmarks.ratio import compare, machine
from benchmarks.spread_weights import calibrate_norms
from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.native import Loaded
from detrscope.families import VARIANTS as VARIANT_OF
from detrscope.inference.export.onnx_graph import build_onnx
from detrscope.inference.onnx_engine import read_metadata
from detrscope.inference.openvino_engine import OpenVinoEngine, openvino_of_onnx
from detrscope.inference.torch_engine import TorchEngine

TABLES = ("transformers", "together", "bare")
EAGER, SDPA, TORCH, OPENVINO = "transformers eager", "transformers sdpa", "torch", "openvino"
WEIGHTS = "state.pt"
SLEEP = 0.05  # seconds after each call in which threads that wait for more work go to sleep
VARIANTS = ("rtdetr-r18", "rtdetrv2-r18", *MODELS)


class Predictions(nn.Module):
    """transformers' model with images in and two tensors out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> logits [B, Q, K], boxes [B, Q, 4]."""
        found = self.model(images)
        return found.logits, found.pred_boxes


def bare_openvino(model: Any, images: Tensor) -> Callable[[Tensor], Any]:
    """Return transformers' model, traced by OpenVINO and compiled for float32."""
    import openvino

    with torch.no_grad():
        converted = openvino.convert_model(
            Predictions(model), example_input=images, input=[list(images.shape)]
        )
    compiled = openvino.compile_model(
        converted,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    return lambda x: compiled([x.numpy()])


def our_openvino(loaded: Loaded) -> OpenVinoEngine:
    """Return our own export of the same weights, without records."""
    graph = build_onnx(loaded.model, loaded.card, attention=False)
    metadata = read_metadata(graph, loaded.card.variant)
    return OpenVinoEngine(openvino_of_onnx(graph, metadata), metadata, "fp32", loaded.card.variant)


def side_of(name: str, variant: str, folder: Path) -> Callable[[Tensor], Any]:
    """Return what takes images [1, 3, H, W] with the weights that transformers saved in a folder."""
    if name in (EAGER, SDPA):
        theirs = hub_model(variant, name.removeprefix("transformers "))
        theirs.load_state_dict(torch.load(folder / WEIGHTS))

        def call(images: Tensor) -> Any:
            with torch.inference_mode():
                return theirs(images)

        return call
    loaded = load_model(folder)
    if name == OPENVINO:
        return our_openvino(loaded).predict
    return TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.float32).predict


def serve(connection: Connection, name: str, variant: str, folder: Path, images: Tensor) -> None:
    """Answer every message with the seconds of a call and its logits [Q, K], sorted over queries."""
    warnings.simplefilter("ignore")
    side = side_of(name, variant, folder)
    connection.send(None)
    while connection.recv():
        started = time.perf_counter()
        found = side(images)
        seconds = time.perf_counter() - started
        logits = found.logits if name in (EAGER, SDPA) else found.logits[-1]
        time.sleep(SLEEP)
        connection.send((seconds, logits[0].sort(0).values))


class Processes:
    """The four sides, each in a process of its own, and a clock that counts the seconds of their calls alone."""

    def __init__(self, variant: str, folder: Path, images: Tensor) -> None:
        self.seconds = 0.0
        self.sides: dict[str, Callable[[], Tensor]] = {}
        self.connections: list[Connection] = []
        context = multiprocessing.get_context("spawn")
        for name in (EAGER, SDPA, TORCH, OPENVINO):
            here, there = context.Pipe()
            context.Process(target=serve, args=(there, name, variant, folder, images), daemon=True).start()
            here.recv()
            self.connections.append(here)
            self.sides[name] = partial(self.call, here)

    def call(self, connection: Connection) -> Tensor:
        """Return one call's logits."""
        connection.send(True)
        seconds, logits = connection.recv()
        self.seconds += seconds
        return logits

    def end(self) -> None:
        """Let the processes end."""
        for connection in self.connections:
            connection.send(False)


def compare_variant(variant: str, tables: list[str], rounds: int) -> None:
    """Print how far ours is from transformers on an image of the variant's size, and the tables."""
    box = VARIANT_OF[variant].preprocessing.box
    assert box is not None
    title = f"{variant}, {box} pixels, fp32"
    images = torch.rand(1, 3, *box, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = hub_model(variant, "eager")
        calibrate_norms(
            theirs, lambda: theirs(images)
        )  # else maps are nearly zero, and selected tokens a matter of rounding
        theirs.save_pretrained(folder)
        torch.save(theirs.state_dict(), folder / WEIGHTS)  # with transformers' own names and tied tensors
        if "transformers" in tables:
            processes = Processes(variant, folder, images)
            sides = processes.sides
            expected = sides[EAGER]()
            for side in (SDPA, TORCH, OPENVINO):
                far = float((sides[side]() - expected).abs().max())
                print(f"{variant}: logits of {side} differ by {far:.1e} at most", flush=True)
            compare(title, sides, rounds=rounds, warm_up=2, clock=lambda: processes.seconds)
            processes.end()
        if "together" in tables:
            calls = {side: side_of(side, variant, folder) for side in (EAGER, SDPA, TORCH, OPENVINO)}
            together = {side: lambda call=call: call(images) for side, call in calls.items()}
            compare(f"{title}, in one process", together, rounds=rounds, warm_up=2)
        if "bare" in tables:
            bare, ours = bare_openvino(theirs, images), side_of(OPENVINO, variant, folder)
            pair = {"bare openvino export": lambda: bare(images), OPENVINO: lambda: ours(images)}
            compare(f"{title}, without torch", pair, rounds=rounds, warm_up=2)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    for variant in options.variants.split(","):
        compare_variant(variant, options.tables, options.rounds)


if __name__ == "__main__":
    main()
