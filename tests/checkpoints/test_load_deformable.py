"""Deformable DETR's published layout, its shared and numbered heads, and where its released weights are."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrscope.checkpoints import load as weights
from detrscope.checkpoints.load import load_model, load_random_model
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.families import VARIANTS
from detrscope.families.family import OnHub

SMALL = {
    "width": 32,
    "queries": 7,
    "encoder": {"layers": 1, "heads": 4, "feedforward": 64, "points": 3},
    "decoder": {"layers": 2, "heads": 4, "feedforward": 64, "points": 2},
    "backbone": {"name": "resnet18"},
}
NAMES = {
    r"backbone\.body\.": "backbone.0.body.",
    r"neck\.projections\.(\d)\.": r"input_proj.\1.0.",
    r"neck\.norms\.(\d)\.": r"input_proj.\1.1.",
    r"neck\.level": "transformer.level_embed",
    r"queries\.embedding": "query_embed",
    r"queries\.points": "transformer.reference_points",
    r"queries\.projection_norm": "transformer.enc_output_norm",
    r"queries\.projection": "transformer.enc_output",
    r"queries\.box_projection_norm": "transformer.pos_trans_norm",
    r"queries\.box_projection": "transformer.pos_trans",
    r"^(en|de)coder": r"transformer.\1coder",
    r"\.feedforward\.expand": ".linear1",
    r"\.feedforward\.contract": ".linear2",
    r"(\.encoder.*)\.self_residual\.norm": r"\1.norm1",
    r"(\.encoder.*)\.feedforward_residual\.norm": r"\1.norm2",
    r"(\.decoder.*)\.cross_residual\.norm": r"\1.norm1",
    r"(\.decoder.*)\.self_residual\.norm": r"\1.norm2",
    r"(\.decoder.*)\.feedforward_residual\.norm": r"\1.norm3",
    r"(\.encoder.*)\.self_attention": r"\1.self_attn",
    r"(\.decoder.*)\.cross_attention": r"\1.cross_attn",
    r"(attn)\.offsets": r"\1.sampling_offsets",
    r"(attn)\.weights": r"\1.attention_weights",
    r"(attn)\.(value|output)": r"\1.\2_proj",
}


def published(state: dict[str, Tensor], layers: int = 2) -> dict[str, Tensor]:
    """Our tensors under the published names, every head repeated as that code's state dict has it."""
    found: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    packed: dict[str, list[Tensor]] = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"(.*decoder\.layers\.\d)\.self_attention\.(\w+)\.(\w+)", key):
            theirs = f"transformer.{match[1]}.self_attn"
            if match[2] == "output":
                found[f"{theirs}.out_proj.{match[3]}"] = tensor
            else:
                packed.setdefault(f"{theirs}.in_proj_{match[3]}", []).append(tensor)
        elif match := re.fullmatch(r"heads\.(class|box)_head\.(.*)", key):
            heads |= {f"{match[1]}_embed.{n}.{match[2]}": tensor for n in range(layers)}
        elif match := re.fullmatch(r"heads\.(class|box)_heads\.(\d)\.(.*)", key):
            heads[f"{match[1]}_embed.{match[2]}.{match[3]}"] = tensor
        elif match := re.fullmatch(r"queries\.(class|box)_head\.(.*)", key):
            heads[f"{match[1]}_embed.{layers}.{match[2]}"] = tensor
        else:
            for ours, theirs in NAMES.items():
                key = re.sub(ours, theirs, key)
            found[key] = tensor
    heads = {key.replace("box_embed", "bbox_embed"): tensor for key, tensor in heads.items()}
    if any(key.startswith("heads.box_heads") for key in state):
        repeated = ("bbox_embed", "class_embed") if "queries.class_head.weight" in state else ("bbox_embed",)
        heads |= {f"transformer.decoder.{k}": t for k, t in heads.items() if k.startswith(repeated)}
    return found | {key: torch.cat(parts) for key, parts in packed.items()} | heads


def arguments(variant: str) -> argparse.Namespace:
    """What the published script saves beside the weights."""
    return argparse.Namespace(
        backbone="resnet18", dilation=False, nheads=4, enc_n_points=3, dec_n_points=2, num_queries=7,
        with_box_refine=variant.endswith(("refine", "two-stage")), two_stage=variant.endswith("two-stage"),
    )  # fmt: skip


def small(variant: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return load_random_model(variant, SMALL | more, ClassTable.of_names("abc"))


@pytest.mark.parametrize(
    ("variant", "more"),
    [
        ("deformable-detr-r50", {}),
        ("deformable-detr-r50-single-scale", {}),
        ("deformable-detr-r50", {"stages": (3, 4), "extra_levels": 2}),
        ("deformable-detr-r50-refine", {}),
        ("deformable-detr-r50-two-stage", {}),
    ],
)
def test_published_files_tell_their_settings(variant: str, more: dict[str, Any], tmp_path: Path) -> None:
    model = small(variant, **more)
    state = published(model.model.state_dict())
    torch.save({"model": state, "args": arguments(variant)}, tmp_path / "official.pth")
    loaded = load_model(tmp_path / "official.pth")
    assert loaded.card.config == model.card.config
    assert len(loaded.card.classes) == 3
    for key, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[key]), key


def test_copies_of_a_shared_head_must_be_equal(tmp_path: Path) -> None:
    model = small("deformable-detr-r50")
    state = published(model.model.state_dict())
    state["bbox_embed.1.layers.0.bias"] = state["bbox_embed.1.layers.0.bias"] + 1
    torch.save({"model": state, "args": arguments("deformable-detr-r50")}, tmp_path / "broken.pth")
    with pytest.raises(
        UserError, match=r"missing heads.class_head.weight.*left over heads.class_heads.0.weight"
    ):
        load_model(tmp_path / "broken.pth")


def test_two_names_of_one_tensor_must_agree(tmp_path: Path) -> None:
    state = published(small("deformable-detr-r50-refine").model.state_dict())
    state["transformer.decoder.bbox_embed.1.layers.0.bias"] += 1
    state["bbox_embed.1.layers.0.bias"] = torch.zeros(32)
    torch.save({"model": state}, tmp_path / "broken.pth")
    with pytest.raises(
        UserError, match=r"different content for the same tensor: heads.box_heads.1.layers.0.bias"
    ):
        load_model(tmp_path / "broken.pth")


def test_no_head_is_an_alias_of_another() -> None:
    for variant, count in (("", 1), ("-refine", 2), ("-two-stage", 3)):
        model = small(f"deformable-detr-r50{variant}").model
        keys = [k for k in model.state_dict() if "class_head" in k and k.endswith("weight")]
        owned = [n for n, _ in model.named_parameters(remove_duplicate=False) if "class_head" in n]
        assert len(keys) == count and len(owned) == 2 * count
        assert len({p.data_ptr() for n, p in model.named_parameters() if "box_head" in n}) == 6 * count


def test_other_classes_reset_every_class_head(tmp_path: Path) -> None:
    state = published(small("deformable-detr-r50-two-stage").model.state_dict())
    variant = "deformable-detr-r50-two-stage"
    torch.save({"model": state, "args": arguments(variant)}, tmp_path / "official.pth")
    loaded = load_model(tmp_path / "official.pth", classes=ClassTable.of_names("de"))
    assert {key.rpartition(".")[0] for key in loaded.report.reset} == {
        "queries.class_head", "heads.class_heads.0", "heads.class_heads.1",
    }  # fmt: skip
    assert loaded.model.heads.class_heads[1].out_features == 2


def test_released_weights_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def offline(repository: str) -> Path:
        asked.append(repository)
        raise UserError("offline")

    monkeypatch.setattr(weights, "fetch_hub_folder", offline)
    names = [name for name, variant in VARIANTS.items() if isinstance(variant.published, OnHub)]
    for name in names:
        with pytest.raises(UserError, match="offline"):
            load_model(name)
    assert [one for one in asked if one.startswith("SenseTime")] == [f"SenseTime/deformable-detr{end}" for end in (
        "", "-single-scale", "-single-scale-dc5", "-with-box-refine", "-with-box-refine-two-stage"
    )]  # fmt: skip
    assert len(asked) == len(set(asked)) == len(names)
