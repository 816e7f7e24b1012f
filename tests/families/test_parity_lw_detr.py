"""LW-DETR equals transformers' with the same weights: proposals and every decoder layer."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.spread_weights import calibrate_norms, median_distance, spread_weights
from torch import Tensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.load import load_model
from detrscope.core.errors import UserError
from detrscope.core.types import Batch, Target
from detrscope.training.losses.recipe import make_criterion
from detrscope.training.train_config import CostConfig, LossConfig, TrainConfig
from tests.support.group_detr_parity import assert_parts_equal, parts_of, run_theirs

HEIGHT, WIDTH = 320, 384  # as many tokens as queries and more
TINY = {"num_hidden_layers": 6, "window_block_indices": [0, 2, 4], "out_indices": [2, 4, 6]}
DEEP = {"num_hidden_layers": 10, "window_block_indices": [0, 1, 3, 6, 7, 9], "out_indices": [3, 5, 6, 10]}
ONE_MAP = {"projector_scale_factors": [1.0], "decoder_n_points": 2}
TWO_MAPS = {
    "projector_scale_factors": [2.0, 0.5],
    "d_model": 384,
    "decoder_self_attention_heads": 12,
    "decoder_cross_attention_heads": 24,
    "decoder_n_points": 4,
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lwdetr-t": ({**TINY, "hidden_size": 192}, {**ONE_MAP, "num_queries": 100}),
    "lwdetr-s": ({**DEEP, "hidden_size": 192}, ONE_MAP),
    "lwdetr-m": ({**DEEP, "hidden_size": 384}, ONE_MAP),
    "lwdetr-l": ({**DEEP, "hidden_size": 384}, TWO_MAPS),
    "lwdetr-x": ({**DEEP, "hidden_size": 768}, TWO_MAPS),
}


def hub_model(variant: str, backbone: dict[str, Any] | None = None, **more: Any) -> Any:
    """LwDetrForObjectDetection with 80 classes and random weights."""
    import transformers

    body, rest = VARIANTS[variant]
    body = body if backbone is None else backbone
    torch.manual_seed(0)
    config = transformers.LwDetrConfig(
        backbone_config=transformers.LwDetrViTConfig(**body),
        num_labels=80,
        attn_implementation="sdpa",
        **{**rest, **more},
    )
    model = transformers.LwDetrForObjectDetection(config).eval()
    spread_weights(model)
    for layer in model.model.backbone.backbone.encoder.layer:
        for factor in (layer.gamma_1, layer.gamma_2):
            factor.data.normal_(0.5, 0.1, generator=torch.Generator().manual_seed(2))
    calibrate_norms(model, lambda: model(images()))
    heads = (model.bbox_embed, *model.model.enc_out_bbox_embed)
    for head in heads:
        head.layers[-1].weight.data.mul_(0.3)  # sizes are multiplied by exponentials of what a head gives
    model.model.reference_point_embed.weight.data.mul_(0.1)
    return model


def images() -> Tensor:
    """Two images of large patches: noise of pixels would average out, and norms would magnify rounding instead."""
    patches = torch.randn(2, 3, HEIGHT // 16, WIDTH // 16, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(patches, size=(HEIGHT, WIDTH), mode="bicubic") * 2


def padding() -> Tensor:
    """The second image is padded at the bottom and at the right."""
    mask = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    mask[1, 288:], mask[1, :, 352:] = True, True
    return mask


def load_both(variant: str, folder: Path, **more: Any) -> tuple[DetectionTransformer, Any]:
    theirs = hub_model(variant, **more)
    theirs.save_pretrained(folder)
    loaded = load_model(folder)
    assert loaded.card.variant == ("lw_detr" if more else variant)
    assert loaded.card.preprocessing.box == (640, 640)
    return loaded.model, theirs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_every_layer_equals_transformers(
    variant: str, padded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-6 in float64. In float32 to 1e-4 of the scale, or to the rounding of theirs in a deep random network."""
    if variant != "lwdetr-t" and not os.environ.get("DETRSCOPE_ALL_VARIANTS"):
        pytest.skip("the smallest size runs; set DETRSCOPE_ALL_VARIANTS=1 for the others")
    model, theirs = load_both(variant, tmp_path)
    batch = Batch(images(), padding() if padded else None)
    exact_batch = Batch(batch.images.double(), batch.padding)
    with torch.no_grad():
        ours = parts_of(outputs := model(batch), model, batch)
        single = run_theirs(theirs, outputs, batch, monkeypatch)
        truth = run_theirs(theirs.double(), outputs, exact_batch, monkeypatch)
        double = parts_of(outputs := model.double()(exact_batch), model, exact_batch)
        selected = run_theirs(theirs, outputs, exact_batch, monkeypatch)
    assert median_distance(truth[-1][-1], WIDTH, HEIGHT) > 15, "the comparison could not fail"
    assert truth[-2][-1].std(1).median() > 0.1, "the comparison could not fail"
    assert_parts_equal(ours, single, truth, double, selected)


def test_losses_equal_transformers(tmp_path: Path) -> None:
    """Every term of every layer and of the proposals, over all groups, and the gradient, to 1e-5."""
    model, theirs = load_both("lwdetr-t", tmp_path, group_detr=3)
    model, theirs = model.double().train(), theirs.double().train()
    generator = torch.Generator().manual_seed(3)
    targets = [
        Target(
            torch.randint(0, 80, (count,), generator=generator),
            torch.rand(count, 4, generator=generator).double() * 0.4 + 0.2,
        )
        for count in (4, 1)
    ]
    config = TrainConfig(cost=CostConfig(classes=2.0), loss=LossConfig(sigmoid="iou-aware"))
    outputs = model(Batch(images().double()))
    assert outputs.proposals is not None and outputs.proposals.groups == 3
    losses = make_criterion(config, "sigmoid")(outputs, targets)
    losses.total.backward()
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
    result = theirs(images().double(), labels=labels)
    result.loss.backward()
    assert len(losses.terms) == 3 * (3 + 1)
    for name, value in losses.terms.items():
        ours, _, rest = name.removeprefix("loss_").partition("_")
        term, weight = {"class": ("ce", 1), "box": ("bbox", 5), "giou": ("giou", 2)}[ours]
        other = result.loss_dict[
            f"loss_{term}" + (f"_{'enc' if rest == 'proposals' else rest}" if rest else "")
        ]
        torch.testing.assert_close(value, weight * other.detach(), rtol=1e-5, atol=1e-8, msg=name)
    torch.testing.assert_close(losses.total, result.loss, rtol=1e-5, atol=0)
    embedding = theirs.model.backbone.backbone.embeddings.projection.weight.grad
    assert embedding is not None
    ours_embedding = model.backbone.get_parameter("embedding.weight").grad
    scale = float(embedding.abs().max())
    torch.testing.assert_close(ours_embedding, embedding, rtol=0, atol=1e-5 * scale)


AUTHORS = {  # a part of a key of transformers' model -> the authors' name
    r"^model\.backbone\.backbone\.embeddings\.position_embeddings": "backbone.0.encoder.pos_embed",
    r"^model\.backbone\.backbone\.embeddings\.projection": "backbone.0.encoder.patch_embed.proj",
    r"^model\.backbone\.backbone\.encoder\.layer": "backbone.0.encoder.blocks",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.o_proj": "attn.proj",
    r"attention\.([qv])_proj\.bias": r"attn.\1_bias",
    r"intermediate\.": "mlp.",
    r"^model\.backbone\.projector\.scale_layers\.(\d+)\.projector_layer\.bottlenecks\.(\d+)\.conv": (
        r"backbone.0.projector.stages.\1.0.m.\2.cv"
    ),
    r"^model\.backbone\.projector\.scale_layers\.(\d+)\.projector_layer\.conv": (
        r"backbone.0.projector.stages.\1.0.cv"
    ),
    r"^model\.backbone\.projector\.scale_layers\.(\d+)\.layer_norm": r"backbone.0.projector.stages.\1.1",
    r"^model\.backbone\.projector\.scale_layers\.(\d+)\.sampling_layers\.(\d+)\.layers": (
        r"backbone.0.projector.stages_sampling.\1.\2"
    ),
    r"(projector\..*)\.norm\.": r"\1.bn.",
    r"^model\.(decoder|enc_out)": r"transformer.\1",
    r"\.decoder\.layernorm": ".decoder.norm",
    r"self_attn\.o_proj": "self_attn.out_proj",
    r"self_attn_layer_norm": "norm1",
    r"cross_attn_layer_norm": "norm2",
    r"(layers\.\d+)\.layer_norm": r"\1.norm3",
    r"(decoder\.layers\.\d+)\.mlp\.fc": r"\1.linear",
    r"^model\.reference_point_embed": "refpoint_embed",
    r"^model\.query_feat": "query_feat",
}


def authors_state(theirs: Any) -> dict[str, Tensor]:
    """Return the weights of transformers' model under the authors' names, projections packed."""
    state: dict[str, Tensor] = {}
    packed: dict[str, list[Tensor]] = {}
    for key, tensor in theirs.state_dict().items():
        for pattern, name in AUTHORS.items():
            key = re.sub(pattern, name, key)
        if match := re.fullmatch(r"(.*\.)(attention|self_attn)\.[qkv]_proj\.(weight|bias)", key):
            inside = "attn.qkv." if match[2] == "attention" else "self_attn.in_proj_"
            packed.setdefault(f"{match[1]}{inside}{match[3]}", []).append(tensor)
        else:
            state[key] = tensor
    return state | {key: torch.cat(parts) for key, parts in packed.items()}


def test_authors_file_gives_the_same_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, theirs = load_both("lwdetr-t", tmp_path)
    torch.save({"model": authors_state(theirs)}, tmp_path / "LWDETR_tiny_60e_coco.pth")
    loaded = load_model(tmp_path / "LWDETR_tiny_60e_coco.pth")
    assert loaded.card.variant == "lwdetr-t" and loaded.card.classes.names[0] == "person"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name


def test_wider_projector_and_both_scales_load(tmp_path: Path) -> None:
    """Maps of 768 channels are narrowed before they are enlarged; a strided convolution makes the coarse map."""
    small = {"num_hidden_layers": 1, "window_block_indices": [0], "out_indices": [1], "hidden_size": 768}
    theirs = hub_model("lwdetr-x", backbone=small, group_detr=1, num_queries=5)
    torch.save(authors_state(theirs), tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"backbone.window_layers is .*: expected some of 0 to 0"):
        load_model(tmp_path / "wide.pth")  # an unknown depth: its windows are not in the file
    theirs.save_pretrained(tmp_path / "hub")
    loaded = load_model(tmp_path / "hub")
    assert loaded.card.config["scales"] == [2.0, 0.5] and loaded.card.config["backbone"]["width"] == 768
    with torch.no_grad():
        expected = theirs(images())
        outputs = loaded.model(Batch(images()))
    torch.testing.assert_close(outputs.logits[-1], expected.logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("activation_function", "relu", "activation_function"),
        ("hidden_expansion", 1.0, "hidden_expansion"),
        ("decoder_activation_function", "gelu", "decoder_activation_function"),
    ],
)
def test_settings_that_are_fixed_here_are_refused(key: str, value: object, said: str, tmp_path: Path) -> None:
    import transformers

    config = transformers.LwDetrConfig(num_labels=3, **{key: value})
    config.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=said):
        load_model(tmp_path)
