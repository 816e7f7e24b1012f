"""Files of D-FINE: the authors' layout, older and newer ones of Hugging Face, their configs and processors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from detrscope.checkpoints.load import load_model, load_random_model
from detrscope.checkpoints.native import Loaded
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from tests.support.authors_keys import AUTHORS, outputs_of
from tests.support.tiny_models import tiny_settings

INSIDE = {
    "feedforward.expand": "linear1", "feedforward.contract": "linear2", "self_attention.output": "self_attn.out_proj",
    "cross_attention.offsets": "cross_attn.sampling_offsets", "cross_attention.weights": "cross_attn.attention_weights",
    "cross_attention.point_shares": "cross_attn.num_points_scale", "cross_residual": "gateway",
    "self_residual.norm": "norm1",
}  # fmt: skip


def small(**decoder: Any) -> Loaded:
    settings = tiny_settings("dfine-s")
    settings["decoder"] = {**settings["decoder"], "heads": 8, **decoder}
    settings["encoder"] = {**settings["encoder"], "heads": 8}
    torch.manual_seed(0)
    loaded = load_random_model("dfine-s", settings, ClassTable.of_names(["a", "b", "c"]))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return loaded


def authors_state(loaded: Loaded) -> dict[str, Tensor]:
    """Our tensors under the authors' names."""
    state: dict[str, Tensor] = {}
    ours = loaded.model.state_dict()
    for key, tensor in ours.items():
        if layer := re.fullmatch(r"(encoder|decoder)\.layers\.(\d)\.(.*)\.(\w+)", key):
            prefix = f"{layer[1]}.{'encoder.0' if layer[1] == 'encoder' else 'decoder'}.layers.{layer[2]}."
            rest = f"{layer[3]}.{layer[4]}"
            if part := re.fullmatch(r"self_attention\.(query|key|value)\.(\w+)", rest):
                names = [key.replace(f".{part[1]}.", f".{p}.") for p in ("query", "key", "value")]
                state[f"{prefix}self_attn.in_proj_{part[2]}"] = torch.cat([ours[name] for name in names])
                continue
            last = "norm2" if layer[1] == "encoder" else "norm3"
            for mine, theirs in {**INSIDE, "feedforward_residual.norm": last}.items():
                if rest.startswith(mine):
                    state[prefix + theirs + rest.removeprefix(mine)] = tensor
                    break
            continue
        if block := re.fullmatch(
            r"encoder\.fusion\.(down|up)_blocks\.(\d)\.(first|last|branches\.\d)\.(.*)", key
        ):
            names = {"first": "cv1", "branches.0": "cv2", "branches.1": "cv3", "last": "cv4"}
            kind = "fpn" if block[1] == "down" else "pan"
            state[f"encoder.{kind}_blocks.{block[2]}.{names[block[3]]}.{block[4]}"] = tensor
            continue
        for mine, theirs in AUTHORS:
            if re.fullmatch(mine, key):
                state[re.sub(mine, theirs, key)] = tensor
                break
        else:
            raise AssertionError(key)
    padding = torch.zeros_like(state["decoder.denoising_class_embed.weight"][:1])
    state["decoder.denoising_class_embed.weight"] = torch.cat(
        [state["decoder.denoising_class_embed.weight"], padding]
    )
    state["decoder.reg_scale"] = state["decoder.reg_scale"].long()  # as the authors' files have it
    state["decoder.decoder.reg_scale"], state["decoder.decoder.up"] = (
        state["decoder.reg_scale"],
        state["decoder.up"],
    )
    state["decoder.anchors"], state["decoder.valid_mask"] = torch.zeros(1, 8, 4), torch.ones(1, 8, 1)
    return state


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_authors_layout_gives_the_same_outputs(tmp_path: Path) -> None:
    loaded = small()
    torch.save({"model": authors_state(loaded), "last_epoch": 131}, tmp_path / "dfine.pth")
    again = load_model(tmp_path / "dfine.pth")
    assert again.card.family == "d_fine" and again.card.config["decoder"]["points"] == [2, 3, 2]
    settings = {**loaded.card.config, "queries": again.card.config["queries"], "backbone": None}
    assert {**again.card.config, "backbone": None} == settings, "all but the queries is in the file"
    again.model.queries.count = loaded.model.queries.count
    assert torch.equal(outputs_of(again), outputs_of(loaded))


def test_points_are_read_from_the_file_not_guessed(tmp_path: Path) -> None:
    torch.save({"model": authors_state(small(points=(4, 1, 2)))}, tmp_path / "dfine.pth")
    assert load_model(tmp_path / "dfine.pth").card.config["decoder"]["points"] == [4, 1, 2]


def test_another_backbone_is_refused_by_its_sizes(tmp_path: Path) -> None:
    state = authors_state(small())
    state = {k: v for k, v in state.items() if not k.startswith("backbone.stages.2.blocks.1")}
    torch.save({"model": state}, tmp_path / "dfine.pth")
    with pytest.raises(UserError, match="backbone is none of hgnetv2_atto"):
        load_model(tmp_path / "dfine.pth")


def hub_folder(folder: Path, **more: Any) -> Any:
    """A small model of transformers, saved with its processor."""
    import transformers

    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 16, 16], stage_in_channels=[16, 64, 256, 512], stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024], stage_num_blocks=[1, 1, 2, 1], stage_numb_of_layers=[3] * 4,
        hidden_sizes=[64, 256, 512, 1024], use_learnable_affine_block=True, out_indices=[2, 3, 4],
    )  # fmt: skip
    config = transformers.DFineConfig(
        backbone_config=backbone, id2label={0: "cell", 1: "dog", 2: "far"}, encoder_hidden_dim=32, d_model=32,
        encoder_in_channels=[256, 512, 1024], decoder_in_channels=[32] * 3, encoder_ffn_dim=64, decoder_ffn_dim=64,
        decoder_layers=2, num_queries=20, decoder_n_points=[3, 6, 3], depth_mult=0.34, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DFineForObjectDetection(config).eval()
    model.save_pretrained(folder)
    transformers.RTDetrImageProcessor(size={"height": 96, "width": 128}).save_pretrained(folder)
    return model


def test_names_queries_and_preprocessing_come_from_the_folder(tmp_path: Path) -> None:
    import transformers

    hub_folder(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.card.classes.names == ("cell", "dog", "far") and loaded.card.config["queries"] == 20
    image = Image.effect_noise((150, 90), 60).convert("RGB").resize((150, 90))
    theirs = transformers.RTDetrImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")[
        "pixel_values"
    ]
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(90, 150, 3).permute(2, 0, 1)
    ours = loaded.card.preprocessing.apply(pixels)
    assert ours.shape == theirs[0].shape == (3, 96, 128)
    assert (ours - theirs[0]).abs().max() <= 1 / 255 + 1e-6


def test_older_names_of_hugging_face_load_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    hub_folder(tmp_path)
    new = outputs_of(load_model(tmp_path))
    older = {}
    for key, tensor in load_file(tmp_path / "model.safetensors").items():
        key = re.sub(r"mlp\.layers\.(\d)", lambda m: f"fc{int(m[1]) + 1}", key)
        key = key.replace("o_proj", "out_proj").replace("encoder.aifi.0", "encoder.encoder.0")
        older[key] = tensor
        if key.startswith(("model.decoder.class_embed", "model.decoder.bbox_embed")):
            older[key.removeprefix("model.decoder.")] = tensor.clone()
    save_file(older, tmp_path / "model.safetensors")
    assert torch.equal(outputs_of(load_model(tmp_path)), new)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decoder_method", "discrete"), ("eval_idx", 0), ("layer_scale", 2), ("encode_proj_layers", [1]),
        ("learn_initial_query", True), ("batch_norm_eps", 1e-3),
    ],
)  # fmt: skip
def test_keys_that_change_the_outputs_are_refused_by_name(key: str, value: object, tmp_path: Path) -> None:
    hub_folder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=key):
        load_model(tmp_path)


def test_other_strides_of_the_backbone_are_refused(tmp_path: Path) -> None:
    hub_folder(tmp_path)
    path = tmp_path / "config.json"
    tree = json.loads(path.read_text())
    tree["backbone_config"]["stage_downsample_strides"] = [2, 2, 2, 1]
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="stage_downsample_strides"):
        load_model(tmp_path)


def test_published_files_are_stretched_to_640_pixels() -> None:
    from detrscope.families import VARIANTS

    wanted = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit="exact", box=(640, 640))
    assert all(VARIANTS[f"dfine-{size}"].preprocessing == wanted for size in "nsmlx")
