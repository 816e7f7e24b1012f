"""DETR R50 by every engine beside the published code, from a picture file to boxes, same random weights.

python -m benchmarks.engines --clone DIR [--image FILE] [--rounds 5] [--int8]

Decoding, resizing and postprocessing are part of every side but those that say "call": these are OpenVINO's own call on
a prepared tensor, and `Detector.predict` on the same tensor.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms as T
from PIL import Image

import detrscope as ds
from benchmarks.published import build_published, import_published, nested
from benchmarks.ratio import compare, machine
from detrscope.data.image_reader import read_image
from detrscope.inference.detector import Detector
from detrscope.inference.export.quantise import CANDIDATES, quantise
from detrscope.inference.openvino_engine import OpenVinoEngine, cpu_precisions
from detrscope.synthetic.scene import draw_scene

HEADS_IN_FLOAT = CANDIDATES[2]


def published_detection(model: Any, path: str) -> Callable[[], object]:
    """Return the published notebook's way from a file to scored boxes."""
    transform = T.Compose(
        [
            T.Resize(800, max_size=1333),
            T.ToTensor(),
            T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    def detect() -> object:
        image = Image.open(path).convert("RGB")
        outputs = model(nested(transform(image)[None]))
        scores = outputs["pred_logits"].softmax(-1)[0, :, :-1]
        x, y, w, h = outputs["pred_boxes"][0].unbind(-1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
        kept = scores.max(-1).values > 0.7
        return corners[kept] * torch.tensor([image.width, image.height] * 2), scores[kept]

    return detect


def int8_detector(detector: Detector, image: torch.Tensor) -> Detector:
    """Return the detector in int8; random weights have no AP by which to choose what stays in floating point."""
    engine = detector.engine
    assert isinstance(engine, OpenVinoEngine)
    images = [detector.card.preprocessing.apply(image)] * 4
    model = quantise(engine.model, images, engine.metadata.sites, HEADS_IN_FLOAT)
    metadata = replace(engine.metadata, precision="int8")
    return Detector(OpenVinoEngine(model, metadata, "int8", "int8"), detector.card)


def _draw(path: Path) -> str:
    Image.fromarray(draw_scene(seed=0, index=0, size=640).image[:480]).save(path, quality=92)
    return str(path)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", required=True, help="a clone of github.com/facebookresearch/detr")
    parser.add_argument(
        "--image", help="a picture file; by default a drawn one of 640 x 480, which becomes 1066 x 800"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--int8", action="store_true", help="quantise too, which takes some minutes")
    arguments = parser.parse_args()
    theirs, _ = build_published(import_published(arguments.clone), "resnet50")
    theirs.eval()
    precisions = ["fp32", *(["bf16"] if "bf16" in cpu_precisions() else [])]
    with tempfile.TemporaryDirectory() as folder:
        picture = arguments.image or _draw(Path(folder) / "drawn.jpg")
        path = Path(folder) / "published.pth"
        torch.save({"model": theirs.state_dict()}, path)
        detectors = {
            f"{engine}, {precision}": ds.load("detr-r50", weights=path, engine=engine, precision=precision)
            for engine in ("torch", "openvino")
            for precision in precisions
        }
        detectors["onnx, fp32"] = ds.load("detr-r50", weights=path, engine="onnx")
        image = read_image(picture)
        if arguments.int8:
            detectors["openvino, int8"] = int8_detector(detectors["openvino, fp32"], image)
        tensor = detectors["torch, fp32"].card.preprocessing.apply(image)[None]
        sides: dict[str, Callable[[], object]] = {"published, fp32": published_detection(theirs, picture)}
        sides |= {name: lambda d=d: d.detect(picture) for name, d in detectors.items()}
        for name in ("openvino, " + precision for precision in precisions):
            engine: Any = detectors[name].engine
            request = engine.request(attention=False)
            sides[f"{name}, OpenVINO's call"] = lambda r=request: r.infer({"images": tensor.numpy()})
            sides[f"{name}, our call"] = lambda e=engine: e.predict(tensor)
            sides[f"{name}, all records"] = lambda d=detectors[name]: d.trace(picture)
        print(machine())
        with torch.inference_mode():
            compare(
                f"DETR R50, {tensor.shape[3]} x {tensor.shape[2]}, seconds an image",
                sides,
                rounds=arguments.rounds,
                warm_up=2,
            )


if __name__ == "__main__":
    main()
