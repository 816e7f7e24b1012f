"""A small DETR checkpoint in the authors' layout."""

from __future__ import annotations

import argparse

import torch

from detrscope.checkpoints.load import load_random_model
from detrscope.core.classes import ClassTable

ARGS = argparse.Namespace(backbone="resnet18", dilation=False, nheads=4, pre_norm=False, hidden_dim=32)


def official_state(classes: int = 3) -> dict[str, torch.Tensor]:
    """A small DETR in the published layout: our tensors under their names."""
    model = load_random_model(
        "detr-r18",
        {
            "width": 32,
            "queries": 7,
            "encoder": {"layers": 1, "feedforward": 64},
            "decoder": {"layers": 1, "feedforward": 64},
        },
        ClassTable.of_names(f"c{i}" for i in range(classes)),
    ).model
    state = model.state_dict()
    published: dict[str, torch.Tensor] = {}
    for stack, attentions, norms in (
        ("encoder", {"self_attention": "self_attn"}, ("self_residual", "feedforward_residual")),
        (
            "decoder",
            {"self_attention": "self_attn", "cross_attention": "multihead_attn"},
            ("self_residual", "cross_residual", "feedforward_residual"),
        ),
    ):
        ours, theirs = f"{stack}.layers.0", f"transformer.{stack}.layers.0"
        for kind in ("weight", "bias"):
            for mine, name in attentions.items():
                parts = [state[f"{ours}.{mine}.{p}.{kind}"] for p in ("query", "key", "value")]
                published[f"{theirs}.{name}.in_proj_{kind}"] = torch.cat(parts)
                published[f"{theirs}.{name}.out_proj.{kind}"] = state[f"{ours}.{mine}.output.{kind}"]
            published[f"{theirs}.linear1.{kind}"] = state[f"{ours}.feedforward.expand.{kind}"]
            published[f"{theirs}.linear2.{kind}"] = state[f"{ours}.feedforward.contract.{kind}"]
            for i, norm in enumerate(norms, start=1):
                published[f"{theirs}.norm{i}.{kind}"] = state[f"{ours}.{norm}.norm.{kind}"]
    for kind in ("weight", "bias"):
        published[f"transformer.decoder.norm.{kind}"] = state[f"decoder.norm.{kind}"]
        published[f"input_proj.{kind}"] = state[f"neck.projection.{kind}"]
        published[f"class_embed.{kind}"] = state[f"heads.class_head.{kind}"]
        for i in range(3):
            published[f"bbox_embed.layers.{i}.{kind}"] = state[f"heads.box_head.layers.{i}.{kind}"]
    published["query_embed.weight"] = state["queries.position.weight"]
    for key, tensor in state.items():
        if key.startswith("backbone.body."):
            published[f"backbone.0.body.{key.removeprefix('backbone.body.')}"] = tensor
    return published
