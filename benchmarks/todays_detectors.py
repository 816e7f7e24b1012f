"""Today's detectors beside transformers with the same random weights, and beside a bare OpenVINO export of these.

python -m benchmarks.todays_detectors [--variants rtdetr-r18,dfine-n] [--tables transformers bare] [--rounds 5]

One image of the square size that the variant is published for, prepared; float32 on all sides, the default number of
threads. transformers' model is saved and loaded as ours, so that both have the same weights; outputs are compared
first. The bare export is `openvino.convert_model` of transformers' model (traced at that size), run by OpenVINO's own
call; ours is `engine openvino`, the file of `detrscope export`, with any size. These two are compared in a table of
their own: torch's threads wait for more work for some milliseconds after their last one, and whatever runs next would
be slowed down by them.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hub_models import MODELS, hub_model
from benchmarks.ratio import compare, machine
from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.native import Loaded
from detrscope.families import VARIANTS as VARIANT_OF
from detrscope.inference.export.onnx_graph import build_onnx
from detrscope.inference.onnx_engine import read_metadata
from detrscope.inference.openvino_engine import OpenVinoEngine, openvino_of_onnx
from detrscope.inference.torch_engine import TorchEngine

TABLES = ("transformers", "bare")
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


def tables_of(variant: str) -> dict[str, dict[str, Callable[[], object]]]:
    """Return what to time, by table, on an image of the variant's size; print how far ours is from transformers."""
    theirs = {name: hub_model(variant, name) for name in ("eager", "sdpa")}
    theirs["sdpa"].load_state_dict(theirs["eager"].state_dict())
    with tempfile.TemporaryDirectory() as folder:
        theirs["eager"].save_pretrained(folder)
        loaded = load_model(Path(folder))
    box = VARIANT_OF[variant].preprocessing.box
    assert box is not None
    images = torch.rand(1, 3, *box, generator=torch.Generator().manual_seed(0))
    graph = our_openvino(loaded)
    bare = bare_openvino(theirs["eager"], images)
    engine = TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        expected = theirs["eager"](images)
        found = engine.predict(images)
    far = float((found.logits[-1].sort(1).values - expected.logits.sort(1).values).abs().max())
    print(f"{variant}: logits of ours and of transformers differ by {far:.1e} at most", flush=True)

    def run(model: Any) -> Callable[[], object]:
        def call() -> object:
            with torch.inference_mode():
                return model(images)

        return call

    ours = {"openvino": lambda: graph.predict(images)}
    return {
        "transformers": {
            "transformers eager": run(theirs["eager"]),
            "transformers sdpa": run(theirs["sdpa"]),
            "torch": lambda: engine.predict(images),
            **ours,
        },
        "bare": {"bare openvino export": lambda: bare(images), **ours},
    }


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    for variant in options.variants.split(","):
        box = VARIANT_OF[variant].preprocessing.box
        tables = tables_of(variant)
        for name in options.tables:
            compare(f"{variant}, {box} pixels, fp32", tables[name], rounds=options.rounds, warm_up=2)


if __name__ == "__main__":
    main()
