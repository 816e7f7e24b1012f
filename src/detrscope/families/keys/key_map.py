"""Key layouts of published checkpoints as tables of renames; nothing is left over or missing in silence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detrscope.core.errors import UserError

Rule = tuple[str, str]
"""(pattern of the whole foreign key, our key). `{a|b|c}` in our key cuts the tensor in equal parts along its first
axis, one for each name; an empty string drops the key."""

Finalize = Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]
"""(renamed tensors, what the checkpoint's own config says) -> the tensors as the model has them."""


@dataclass(frozen=True)
class KeyLayout:
    """One way of naming a family's parameters; a checkpoint that has the key `mark` is of this layout."""

    name: str
    mark: str
    rules: tuple[Rule, ...]
    finalize: Finalize = lambda state, settings: state  # what no table of keys can say

    def rename(self, state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The same tensors under our names.

        Args:
            state: tensors under their names.
            settings: what the checkpoint's own config says, in our words.

        Raises:
            UserError: keys that no rule knows, or two keys for one of our tensors that do not hold the same; listed.
        """
        rules = [(re.compile(pattern), ours) for pattern, ours in self.rules]
        renamed: dict[str, Tensor] = {}
        unknown, differing = [], []
        for key, tensor in state.items():
            for pattern, ours in rules:
                if match := pattern.fullmatch(key):
                    placed = _place(match.expand(ours), tensor)
                    differing += [
                        k for k in placed if k in renamed and not torch.equal(renamed[k], placed[k])
                    ]
                    renamed.update(placed)
                    break
            else:
                unknown.append(key)
        if unknown:
            raise UserError(f"{len(unknown)} keys unknown to the {self.name} layout: {some(unknown)}")
        if differing:
            raise UserError(f"several keys of different content stand for {some(differing)}")
        return self.finalize(renamed, settings)


def _place(ours: str, tensor: Tensor) -> dict[str, Tensor]:
    if not ours:
        return {}
    if (packed := re.search(r"\{(.*?)\}", ours)) is None:
        return {ours: tensor}
    names = packed[1].split("|")
    parts = tensor.chunk(len(names), dim=0)
    return {ours.replace(packed[0], name): part for name, part in zip(names, parts, strict=True)}


class Shapes:
    """What the shapes of a renamed checkpoint tell about the model it belongs to."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}

    def has(self, key: str) -> bool:
        """Whether there is a tensor of this name."""
        return key in self.shapes

    def of(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            UserError: it is not there.
        """
        if key not in self.shapes:
            raise UserError(f"the checkpoint has no tensor for '{key}'")
        return self.shapes[key]

    def size(self, key: str, axis: int) -> int:
        """One dimension of a tensor.

        Raises:
            UserError: the tensor is not there, or has no such dimension.
        """
        shape = self.of(key)
        if not -len(shape) <= axis < len(shape):
            raise UserError(f"the checkpoint's tensor for '{key}' has the shape {list(shape)}")
        return shape[axis]

    def rows(self, key: str) -> int:
        """The first dimension of a tensor, 0 where it is not there."""
        return self.size(key, 0) if self.has(key) else 0

    def softmax_classes(self) -> int:
        """How many classes the one class head knows, "no object" left out."""
        return self.rows("heads.class_head.weight") - 1

    def count(self, prefix: str) -> int:
        """How many numbered children stand under `prefix`."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        return len({m[1] for key in self.shapes if (m := pattern.match(key))})

    def stack(self, name: str) -> dict[str, int]:
        """Number of layers and feed-forward width of `encoder` or `decoder`."""
        layers = self.count(f"{name}.layers")
        found = {"layers": layers}
        if layers:
            found["feedforward"] = self.size(f"{name}.layers.0.feedforward.expand.weight", 0)
        return found

    def resnet(self, prefix: str) -> str:
        """The name of the ResNet under `prefix`, told by its third stage.

        Raises:
            UserError: it is none of the known ones.
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


def compare(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], skip: Iterable[str] = ()) -> list[str]:
    """Every way in which `state` does not fit `wanted`: missing, left over, or of another shape; empty when it fits."""
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


def listed(problems: list[str], limit: int = 200) -> str:
    """All problems in one line, as far as a line may reasonably go."""
    more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + more


def some(items: list[str], limit: int = 8) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def layer_rules(
    ours: str,
    theirs: str,
    self_attention: tuple[Rule, ...],
    cross_attention: tuple[Rule, ...],
    rest: tuple[Rule, ...],
) -> tuple[Rule, ...]:
    """Rules for the numbered layers of a stack, from rules for what stands inside one layer."""
    inside = (
        *((p, f"self_attention.{o}") for p, o in self_attention),
        *((p, f"cross_attention.{o}") for p, o in cross_attention),
        *rest,
    )
    return tuple((rf"{theirs}\.layers\.(\d+)\.{p}", rf"{ours}.layers.\1.{o}") for p, o in inside)


def torch_attention(name: str) -> tuple[Rule, ...]:
    """nn.MultiheadAttention: query, key and value packed in one matrix."""
    return (
        (rf"{name}\.in_proj_(weight|bias)", r"{query|key|value}.\2"),
        (rf"{name}\.out_proj\.(weight|bias)", r"output.\2"),
    )


TORCH_FEEDFORWARD: tuple[Rule, ...] = (
    (r"linear1\.(.*)", r"feedforward.expand.\2"),
    (r"linear2\.(.*)", r"feedforward.contract.\2"),
)
TORCH_TRANSFORMER: tuple[Rule, ...] = (
    *layer_rules(
        "encoder", r"transformer\.encoder", torch_attention("self_attn"), (),
        (
            *TORCH_FEEDFORWARD,
            (r"norm1\.(.*)", r"self_residual.norm.\2"),
            (r"norm2\.(.*)", r"feedforward_residual.norm.\2"),
        ),
    ),
    *layer_rules(
        "decoder", r"transformer\.decoder", torch_attention("self_attn"), torch_attention("multihead_attn"),
        (
            *TORCH_FEEDFORWARD,
            (r"norm1\.(.*)", r"self_residual.norm.\2"),
            (r"norm2\.(.*)", r"cross_residual.norm.\2"),
            (r"norm3\.(.*)", r"feedforward_residual.norm.\2"),
        ),
    ),
    (r"transformer\.(encoder|decoder)\.norm\.(.*)", r"\1.norm.\2"),
)  # fmt: skip
"""nn.Transformer's names, which the published DETR keeps."""


def hf_attention(name: str) -> tuple[Rule, ...]:
    """Separate projections; the output is `out_proj` in older files and `o_proj` in newer ones."""
    return (
        (rf"{name}\.q_proj\.(.*)", r"query.\2"),
        (rf"{name}\.k_proj\.(.*)", r"key.\2"),
        (rf"{name}\.v_proj\.(.*)", r"value.\2"),
        (rf"{name}\.(?:out_proj|o_proj)\.(.*)", r"output.\2"),
    )


HF_REST: tuple[Rule, ...] = (
    (r"(?:mlp\.)?fc1\.(.*)", r"feedforward.expand.\2"),
    (r"(?:mlp\.)?fc2\.(.*)", r"feedforward.contract.\2"),
    (r"self_attn_layer_norm\.(.*)", r"self_residual.norm.\2"),
    (r"final_layer_norm\.(.*)", r"feedforward_residual.norm.\2"),
)
HF_TRANSFORMER: tuple[Rule, ...] = (
    *layer_rules("encoder", r"model\.encoder", hf_attention("self_attn"), (), HF_REST),
    *layer_rules(
        "decoder", r"model\.decoder", hf_attention("self_attn"), hf_attention("encoder_attn"),
        (*HF_REST, (r"encoder_attn_layer_norm\.(.*)", r"cross_residual.norm.\2")),
    ),
    (r"model\.decoder\.layernorm\.(.*)", r"decoder.norm.\1"),
    (r"model\.encoder\.layernorm\.(.*)", r"encoder.norm.\1"),
)  # fmt: skip
"""transformers' names of DETR's stacks, old and new."""

_HF_BODY = r"model\.backbone\.(?:conv_encoder\.)?model\."


def _hf_resnet_rules() -> tuple[Rule, ...]:
    """The ResNet of transformers itself (`use_timm_backbone=False`) to torchvision's names."""
    rules: list[Rule] = []
    ends = {"convolution": ("conv{}", "downsample.0"), "normalization": ("bn{}", "downsample.1")}
    for part, (inside, shortcut) in ends.items():
        rules.append(
            (rf"{_HF_BODY}embedder\.embedder\.{part}\.(.*)", rf"backbone.body.{inside.format(1)}.\1")
        )
        for stage in range(4):
            head = rf"{_HF_BODY}encoder\.stages\.{stage}\.layers\.(\d+)\."
            ours = rf"backbone.body.layer{stage + 1}.\1."
            rules.append((rf"{head}shortcut\.{part}\.(.*)", rf"{ours}{shortcut}.\2"))
            rules += [
                (rf"{head}layer\.{i}\.{part}\.(.*)", rf"{ours}{inside.format(i + 1)}.\2") for i in range(3)
            ]
    return tuple(rules)


HF_BACKBONES: tuple[Rule, ...] = (
    *_hf_resnet_rules(),
    (_HF_BODY + r"((?:conv1|bn1|layer\d)\..*)", r"backbone.body.\1"),
)
"""timm's ResNet names, which are torchvision's, or transformers' own ResNet."""
