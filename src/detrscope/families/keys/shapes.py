"""Tensor shapes of a checkpoint: infer settings from them and compare them with a model's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from detrscope.core.errors import UserError

SMALL = 64  # numbers of a tensor whose content may tell a setting


class Shapes:
    """Shapes of a renamed checkpoint's tensors, and the numbers of those that are no weights."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        self._small = {key: tensor for key, tensor in state.items() if tensor.numel() <= SMALL}

    def numbers(self, key: str) -> list[float]:
        """Return the numbers of a small tensor of one dimension.

        Raises:
            UserError: it is missing, larger or of other dimensions.
        """
        if len(shape := self.of(key)) != 1 or key not in self._small:
            raise UserError(f"the checkpoint's tensor for '{key}' has the shape {list(shape)}")
        return self._small[key].double().tolist()

    def has(self, key: str) -> bool:
        """Return whether there is a tensor of this name."""
        return key in self.shapes

    def of(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            UserError: it is missing.
        """
        if key not in self.shapes:
            raise UserError(f"the checkpoint has no tensor for '{key}'")
        return self.shapes[key]

    def size(self, key: str, axis: int) -> int:
        """Return one dimension of a tensor.

        Raises:
            UserError: the tensor is missing or has no such dimension.
        """
        shape = self.of(key)
        if not -len(shape) <= axis < len(shape):
            raise UserError(f"the checkpoint's tensor for '{key}' has the shape {list(shape)}")
        return shape[axis]

    def rows(self, key: str) -> int:
        """Return the first dimension of a tensor, 0 where it is missing."""
        return self.size(key, 0) if self.has(key) else 0

    def softmax_classes(self) -> int:
        """Return the number of classes of a softmax class head, without "no object"."""
        return self.rows("heads.class_head.weight") - 1

    def count(self, prefix: str) -> int:
        """Count the numbered children under `prefix`."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        return len({m[1] for key in self.shapes if (m := pattern.match(key))})

    def stack(self, name: str) -> dict[str, int]:
        """Return the number of layers and the feed-forward width of `encoder` or `decoder`."""
        layers = self.count(f"{name}.layers")
        settings = {"layers": layers}
        if layers:
            settings["feedforward"] = self.size(f"{name}.layers.0.feedforward.expand.weight", 0)
        return settings

    def resnet(self, prefix: str) -> str:
        """Return the name of the ResNet under `prefix`, identified from its third stage.

        Raises:
            UserError: it is none of the supported ResNets.
        """
        deep = self.has(f"{prefix}.layer3.0.conv3.weight")
        blocks = self.count(f"{prefix}.layer3")
        names = {
            (False, 2): "resnet18",
            (False, 6): "resnet34",
            (True, 6): "resnet50",
            (True, 23): "resnet101",
        }
        if (deep, blocks) not in names:
            raise UserError(
                f"the checkpoint's backbone is no ResNet-18, 34, 50 or 101 ({blocks} blocks in stage 3)"
            )
        return names[deep, blocks]


def compare_shapes(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], skip: Iterable[str] = ()
) -> list[str]:
    """List the tensors of `state` that do not fit `wanted`: missing, left over, of another shape or type."""
    skip = tuple(skip)
    problems = []
    for key, tensor in wanted.items():
        if key in skip or key.endswith("num_batches_tracked"):
            continue
        if key not in state:
            problems.append(f"missing {key} {list(tensor.shape)}")
        elif state[key].shape != tensor.shape:
            problems.append(f"{key} is {list(state[key].shape)}, expected {list(tensor.shape)}")
        elif state[key].is_floating_point() != tensor.is_floating_point() or state[key].is_sparse:
            problems.append(f"{key} holds {state[key].dtype}, expected plain {tensor.dtype}")
    return problems + [f"left over {key}" for key in state if key not in wanted]


def list_keys(problems: list[str], limit: int = 200) -> str:
    """Join problems in one line, at most `limit` of them."""
    more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + more


def some_keys(items: list[str], limit: int = 8) -> str:
    """Join the first few items and the number of the rest."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
