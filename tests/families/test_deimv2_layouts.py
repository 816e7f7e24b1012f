"""Files of DEIMv2: the authors' layout, and what tells their model from transformers'."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detrscope.checkpoints.load import load_model, load_random_model
from detrscope.checkpoints.native import Loaded
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from tests.support.authors_keys import AUTHORS, outputs_of
from tests.support.tiny_models import tiny_settings

LITE = (
    (r"neck\.coarser\.conv\.(.*)", r"encoder.down_sample1.1.\1"),
    (r"neck\.coarser\.norm\.(.*)", r"encoder.down_sample1.2.\1"),
    (r"encoder\.fusion\.strided\.0\.1\.conv\.(.*)", r"encoder.down_sample2.1.\1"),
    (r"encoder\.fusion\.strided\.0\.1\.norm\.(.*)", r"encoder.down_sample2.2.\1"),
    (r"encoder\.fusion\.laterals\.0\.(.*)", r"encoder.bi_fusion.cv.\1"),
    (r"encoder\.fusion\.down_blocks\.0\.(.*)", r"encoder.fpn_block.\1"),
    (r"encoder\.fusion\.up_blocks\.0\.(.*)", r"encoder.pan_block.\1"),
    (r"decoder\.(layers\.\d\.)feedforward\.contract\.(.*)", r"decoder.decoder.\1swish_ffn.w3.\2"),
    (r"decoder\.(layers\.\d\.)self_attention\.output\.(.*)", r"decoder.decoder.\1self_attn.out_proj.\2"),
    (
        r"decoder\.(layers\.\d\.)cross_attention\.offsets\.(.*)",
        r"decoder.decoder.\1cross_attn.sampling_offsets.\2",
    ),
    (
        r"decoder\.(layers\.\d\.)cross_attention\.weights\.(.*)",
        r"decoder.decoder.\1cross_attn.attention_weights.\2",
    ),
    (
        r"decoder\.(layers\.\d\.)cross_attention\.point_shares",
        r"decoder.decoder.\1cross_attn.num_points_scale",
    ),
    (r"decoder\.(layers\.\d\.)self_residual\.norm\.weight", r"decoder.decoder.\1norm1.scale"),
    (r"decoder\.(layers\.\d\.)cross_residual\.norm\.weight", r"decoder.decoder.\1norm2.scale"),
    (r"decoder\.(layers\.\d\.)feedforward_residual\.norm\.weight", r"decoder.decoder.\1norm3.scale"),
    *AUTHORS,
)
BLOCK = {
    r"\.first\.": ".cv1.",
    r"\.branches\.0\.": ".cv2.",
    r"\.branches\.1\.": ".cv3.",
    r"\.last\.": ".cv4.",
}


def small() -> Loaded:
    settings = tiny_settings("deimv2-atto")
    settings["decoder"] = {**settings["decoder"], "heads": 8}
    torch.manual_seed(0)
    loaded = load_random_model("deimv2-atto", settings, ClassTable.of_names(["a", "b", "c"]))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return loaded


def authors_state(loaded: Loaded) -> dict[str, Tensor]:
    """Our tensors under the authors' names; they store the shared box head once for each layer."""
    state: dict[str, Tensor] = {}
    ours = loaded.model.state_dict()
    for key, tensor in ours.items():
        packed = re.fullmatch(
            r"decoder\.(layers\.\d)\.(self_attention|feedforward)\.(query|key|value|gate|expand)\.(\w+)", key
        )
        if packed:
            names = ("query", "key", "value") if packed[2] == "self_attention" else ("gate", "expand")
            theirs = f"self_attn.in_proj_{packed[4]}" if len(names) == 3 else f"swish_ffn.w12.{packed[4]}"
            parts = [ours[f"decoder.{packed[1]}.{packed[2]}.{name}.{packed[4]}"] for name in names]
            state[f"decoder.decoder.{packed[1]}.{theirs}"] = torch.cat(parts)
            continue
        name = next(re.sub(mine, theirs, key) for mine, theirs in LITE if re.fullmatch(mine, key))
        if name.startswith(("encoder.fpn", "encoder.pan")):
            for mine, theirs in BLOCK.items():
                name = re.sub(mine, theirs, name, count=1)
        state[name] = tensor
    for key in [key for key in state if key.startswith("decoder.dec_bbox_head.0.")]:
        state[key.replace("head.0.", "head.1.")] = state[key].clone()
    embedding = state["decoder.denoising_class_embed.weight"]
    state["decoder.denoising_class_embed.weight"] = torch.cat([embedding, torch.zeros_like(embedding[:1])])
    state["decoder.reg_scale"] = state["decoder.reg_scale"].long()
    return state


def test_the_authors_layout_gives_the_same_outputs(tmp_path: Path) -> None:
    loaded = small()
    torch.save({"model": authors_state(loaded)}, tmp_path / "deimv2.pth")
    again = load_model(tmp_path / "deimv2.pth")
    config = again.card.config
    assert again.card.family == "deimv2" and config["decoder"]["points"] == [3, 2] and config["stages"] == [3]
    kinds = [config[key] for key in ("box_heads", "positions", "proposals", "cross", "activation")]
    assert kinds == ["shared", "first", "tokens", "summed", "silu"]
    again.model.queries.count = loaded.model.queries.count
    assert torch.equal(outputs_of(again), outputs_of(loaded))


def test_a_box_head_of_each_layer_is_kept_apart(tmp_path: Path) -> None:
    state = authors_state(small())
    state["decoder.dec_bbox_head.1.layers.0.bias"] += 1
    torch.save({"model": state}, tmp_path / "deimv2.pth")
    loaded = load_model(tmp_path / "deimv2.pth")
    assert loaded.card.config["box_heads"] == "each layer" and len(loaded.model.heads.box_heads) == 2


def test_a_published_size_brings_its_queries_and_image_size(tmp_path: Path) -> None:
    loaded = load_random_model("deimv2-pico", {}, ClassTable.of_names(map(str, range(80))))
    torch.save({"model": authors_state(loaded)}, tmp_path / "deimv2.pth")
    again = load_model(tmp_path / "deimv2.pth")
    assert again.card.variant == "deimv2-pico" and again.card.config["queries"] == 200
    assert again.card.preprocessing.box == (640, 640)


def test_concatenating_fusion_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deimv2", "encoder_fuse_op": "cat"}))
    with pytest.raises(UserError, match="encoder_fuse_op"):
        load_model(tmp_path)
