"""Outputs of D-FINE or DEIMv2 beside the published code with the same random weights, in float64, batch of one.

Proves that checkpoints in the authors' layout compute what the authors' code does; exits 1 where they do not.

python -m benchmarks.parity_deimv2 --clone DIR            # https://github.com/Intellindust-AI-Lab/DEIMv2
python -m benchmarks.parity_deimv2 --clone DIR --d-fine   # https://github.com/Peterande/D-FINE
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.spread_weights import calibrate_norms, spread_weights
from detrscope.checkpoints.load import load_model
from detrscope.core.types import Batch

SIDE = 640  # pixels
LIMIT = 1e-4  # the authors' positions and anchors are float32
KEPT = ("num_points_scale", "up", "reg_scale")  # tensors that are no weights
SMALL = {"feat_strides": [16, 32], "num_levels": 2, "num_layers": 3}
DEIM = {**SMALL, "activation": "silu", "mlp_act": "silu", "reg_scale": 4}


class Whole(nn.Module):
    """The authors' three parts, one after another."""

    def __init__(self, backbone: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.backbone, self.encoder, self.decoder = backbone, encoder, decoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [1, 3, H, W] -> the authors' outputs."""
        outputs: dict[str, Tensor] = self.decoder(self.encoder(self.backbone(images)))
        return outputs


def import_parts(root: Path, packages: tuple[str, ...]) -> None:
    """Make packages of the clone importable as `published.*`, without what their own imports would need."""
    for name in ("", *packages):
        module = ModuleType(f"published.{name}".rstrip("."))
        module.__path__ = [str(root / name.replace(".", "/"))]
        sys.modules[module.__name__] = module
    sys.modules["published.core"].register = lambda *a, **k: lambda cls: cls  # type: ignore[attr-defined]


def part(name: str) -> Any:
    """Import a module of the clone."""
    return importlib.import_module(f"published.{name}")


def backbone(name: str, maps: list[int], module: str, affine: bool = True) -> nn.Module:
    """Build the authors' backbone with random weights."""
    made: nn.Module = part(module).HGNetv2(
        name, use_lab=affine, return_idx=maps, freeze_at=-1, freeze_norm=False, pretrained=False
    )
    return made


def build_d_fine(size: str) -> Whole:
    """Build D-FINE N or X."""
    encoder, decoder = (
        part("zoo.dfine.hybrid_encoder").HybridEncoder,
        part("zoo.dfine.dfine_decoder").DFINETransformer,
    )
    if size == "n":
        small = encoder(
            [512, 1024],
            [16, 32],
            128,
            dim_feedforward=512,
            use_encoder_idx=[1],
            expansion=0.34,
            depth_mult=0.5,
        )
        last = decoder(
            80, 128, feat_channels=[128] * 2, num_points=[6, 6], dim_feedforward=512, reg_scale=4, **SMALL
        )
        return Whole(backbone("B0", [2, 3], "nn.backbone.hgnetv2"), small, last)
    large = encoder([512, 1024, 2048], [8, 16, 32], 384, dim_feedforward=2048)
    last = decoder(80, 256, feat_channels=[384] * 3, num_points=[3, 6, 3], num_layers=6, reg_scale=8)
    return Whole(backbone("B5", [1, 2, 3], "nn.backbone.hgnetv2", affine=False), large, last)


def build_deimv2(size: str) -> Whole:
    """Build a size of DEIMv2."""
    decoder = part("deim.deim_decoder").DEIMTransformer
    if size == "n":
        first = part("deim.hybrid_encoder").HybridEncoder(
            [512, 1024], [16, 32], 128, dim_feedforward=512, use_encoder_idx=[1], expansion=0.34, depth_mult=0.5,
            version="dfine", csp_type="csp2", fuse_op="sum",
        )  # fmt: skip
        last = decoder(80, 128, 300, feat_channels=[128] * 2, num_points=[6, 6], dim_feedforward=512, **DEIM)
        return Whole(backbone("B0", [2, 3], "backbone.hgnetv2"), first, last)
    name, channels, width, feedforward, queries = {
        "atto": ("Atto", 256, 64, 160, 100), "femto": ("Femto", 512, 96, 256, 150),
        "pico": ("Pico", 512, 112, 320, 200),
    }[size]  # fmt: skip
    first = part("deim.lite_encoder").LiteEncoder([channels], [16], width, expansion=0.34, depth_mult=0.5)
    last = decoder(
        80, width, queries, feat_channels=[width] * 2, num_points=[4, 2], dim_feedforward=feedforward,
        share_bbox_head=True, use_gateway=False, **DEIM,
    )  # fmt: skip
    return Whole(backbone(name, [2], "backbone.hgnetv2"), first, last)


def distances(theirs: Whole) -> tuple[str, float, float]:
    """Return the variant that the weights are taken for, and the largest distance of logits and boxes."""
    kept = {key: x.clone() for key, x in theirs.state_dict().items() if key.endswith(KEPT)}
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    spread_weights(theirs)
    theirs.load_state_dict(kept, strict=False)
    calibrate_norms(theirs, lambda: theirs(images))
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"model": theirs.state_dict()}, Path(folder) / "weights.pth")
        loaded = load_model(Path(folder) / "weights.pth")
    for module in theirs.modules():
        if type(module).__name__ == "RMSNorm":  # theirs computes in float32 whatever it gets
            module.forward = lambda x, norm=module: norm._norm(x) * norm.scale
    anchors = theirs.decoder._generate_anchors

    def exact(*args: Any, **more: Any) -> Any:
        return anchors(*args, **{**more, "dtype": torch.float64})

    theirs.decoder._generate_anchors = exact  # type: ignore[assignment]
    position = getattr(theirs.encoder, "build_2d_sincos_position_embedding", None)
    if position is not None:
        theirs.encoder.build_2d_sincos_position_embedding = lambda *a, **k: position(*a, **k).double()  # type: ignore[assignment]
    with torch.no_grad():
        wanted = theirs.double()(images.double())
        found = loaded.model.double()(Batch(images.double()))
    logits = float((wanted["pred_logits"] - found.logits[-1]).abs().max())
    return loaded.card.variant, logits, float((wanted["pred_boxes"] - found.boxes_cxcywh[-1]).abs().max())


def main() -> None:
    """Print a table, and exit 1 where an output differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", type=Path, required=True)
    parser.add_argument("--d-fine", action="store_true")
    arguments = parser.parse_args()
    if arguments.d_fine:
        import_parts(arguments.clone / "src", ("core", "nn", "nn.backbone", "zoo", "zoo.dfine"))
        sizes, build = ("n", "x"), build_d_fine
    else:
        import_parts(arguments.clone / "engine", ("core", "backbone", "deim"))
        sizes, build = ("atto", "femto", "pico", "n"), build_deimv2
    table = Table("variant", "logits", "boxes")
    worst = 0.0
    for size in sizes:
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = build(size).eval()
        variant, logits, boxes = distances(theirs)
        worst = max(worst, logits, boxes)
        table.add_row(variant, f"{logits:.1e}", f"{boxes:.1e}")
    Console().print(table)
    sys.exit(int(worst > LIMIT))


if __name__ == "__main__":
    main()
