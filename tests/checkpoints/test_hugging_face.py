"""Hugging Face folders: every key that changes numbers is obeyed, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from detrscope.checkpoints.hugging_face_processor import read_processor
from detrscope.checkpoints.load import load_model
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from tests.support.published_checkpoints import official_state

HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}


def folder_of(path: Path, config: object, processor: object = None, classes: int = 3) -> Path:
    torch.save(official_state(classes), path / "pytorch_model.bin")
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if processor is not None:
        text = processor if isinstance(processor, str) else json.dumps(processor)
        (path / "preprocessor_config.json").write_text(text)
    return path


def read(tmp_path: Path, tree: object) -> tuple[Preprocessing, tuple[str, ...]]:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return read_processor(path)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"size": {"shortest_edge": 60, "longest_edge": 90}},
        {"size": {"shortest_edge": 40, "longest_edge": 44}},
        {"size": 60},
        {"size": {"height": 50, "width": 70}},
        {"size": {"max_height": 50, "max_width": 70}},
        {"size": {"max_height": 200, "max_width": 50}},
        {"size": {"height": 50, "width": 70}, "do_resize": False},
        {"do_resize": False},
        {"do_resize": False, "do_rescale": False},
        {"do_resize": False, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"do_resize": False, "do_normalize": False},
        {"do_resize": False, "do_normalize": False, "do_rescale": False},
        {"do_resize": False, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"size": {"height": 50, "width": 70}, "resample": 3},
        {"size": {"height": 50, "width": 70}, "resample": 0},
        {"size": {"height": 50, "width": 70}, "do_pad": False, "format": "coco_panoptic"},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(3, 48, 64), (3, 80, 33)], ids=str)
def test_images_are_prepared_as_transformers_does(
    given: dict[str, Any], shape: tuple[int, int, int], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    theirs = transformers.DetrImageProcessor(**given)
    theirs.save_pretrained(tmp_path)
    expected = theirs(image, return_tensors="pt")["pixel_values"][0]
    for saved in (tmp_path / "preprocessor_config.json", None):
        ours, notes = read_processor(saved) if saved else read(tmp_path, given)
        seen = ours.apply(image)
        if seen.shape != expected.shape:  # transformers rounds the long side otherwise than DETR's own code
            assert ours.fit == "sides"
            assert all(abs(a - b) <= 1 for a, b in zip(seen.shape, expected.shape, strict=True))
        else:
            torch.testing.assert_close(seen, expected.float(), atol=2e-5, rtol=1e-5)
        assert not notes
        assert Preprocessing.from_json(json.loads(json.dumps(ours.to_json()))) == ours


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ([], "expected a JSON object, found list"),
        (3, "expected a JSON object, found number"),
        ({"size": "big"}, "size"),
        ({"size": {}}, "size: expected shortest_edge"),
        ({"size": {"shortest_edge": 0, "longest_edge": 3}}, "size: shortest_edge"),
        ({"size": {"longest_edge": 300}}, "size: expected shortest_edge"),
        ({"size": {"height": 300}}, "size: expected shortest_edge"),
        ({"size": {"height": 3, "width": 4, "shortest_edge": 5}}, "size: expected shortest_edge"),
        ({"size": {"min_pixels": 4}}, "size: unknown key 'min_pixels'"),
        ({"size": {"height": "300", "width": 300}}, "size: height"),
        ('{"size": {"height": Infinity, "width": 300}}', "size: height"),
        ('{"size": ' + "9" * 5000 + "}", "size"),
        ({"image_mean": 0.5}, "image_mean"),
        ({"image_mean": [0.5]}, "image_mean"),
        ('{"image_mean": [NaN, 0, 0]}', "image_mean.0"),
        ({"image_std": [0, 1, 1]}, "image_std.0"),
        ({"image_std": ["1", 1, 1]}, "image_std.0"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"do_normalize": "false"}, "do_normalize"),
        ({"do_resize": 1}, "do_resize"),
        ({"do_rescale": None}, "do_rescale"),
        ({"resample": 1}, "resample: .*lanczos"),
        ({"resample": "box"}, "resample: .*box"),
        ({"resample": 9}, "resample"),
        ({"pad_size": {"height": 640, "width": 640}}, "pad_size"),
        ({"format": "yolo"}, "format"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"size_divisor": 32}, "size_divisor"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": ' * 500 + "1" + "}" * 500, "nested more than"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_unsupported_processor_keys_are_refused(tree: object, key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: {key}") as error:
        read(tmp_path, tree)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_unknown_keys_are_logged_and_disabled_switches_ignored(tmp_path: Path) -> None:
    _, notes = read(tmp_path, {"brightness": 2, "do_center_crop": False, "size_divisor": None})
    assert notes == (f"{tmp_path}/preprocessor_config.json: not used: brightness",)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ([], "expected a JSON object, found list"),
        ("5", "expected a JSON object, found number"),
        ("null", "expected a JSON object, found null"),
        ({"id2label": ["a", "b"]}, "id2label: expected"),
        ({"id2label": {"a": "b"}}, "id2label: key 'a'"),
        ({"id2label": {"-1": "b"}}, "id2label: key '-1'"),
        ({"id2label": {"0": 5}}, "id2label.0"),
        ({"id2label": {"0": "a", "00": "b"}}, "id2label: several keys for class 0"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "id2label: 3 .*it counts from 1"),
        ({"id2label": {"90": "z"}}, "id2label: 90 .*classes 0 to 2"),
        ({"encoder_attention_heads": "8"}, "encoder_attention_heads"),
        ({"encoder_attention_heads": 0}, "encoder_attention_heads"),
        ({"decoder_attention_heads": 4.5}, "decoder_attention_heads"),
        ({"dilation": "no"}, "dilation"),
        ({"activation_function": "gelu"}, "activation_function"),
        ({"backbone_config": 3}, "backbone_config"),
        ({"backbone_config": {"output_stride": 8}}, "backbone_config.output_stride"),
        ({"backbone_config": {"hidden_act": "gelu"}}, "backbone_config.hidden_act"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_unsupported_config_keys_are_refused(config: object, key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"config\.json: {key}") as error:
        load_model(folder_of(tmp_path, config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        ({"0": "ant", "1": "bee", "2": "cat"}, ("ant", "bee", "cat"), ""),
        ({"2": "cat", "0": "ant"}, ("ant", "unused 1", "cat"), "names 2 of 3 classes; unnamed: 1"),
        ({"1": "ant", "2": "bee"}, ("unused 0", "ant", "bee"), "names 2 of 3 classes; unnamed: 0"),
        ({"0": "N/A", "1": "bee", "2": ""}, ("unused 0", "bee", "unused 2"), ""),
    ],
)
def test_class_names_keep_their_indices(
    labels: dict[str, str], names: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    loaded = load_model(folder_of(tmp_path, {**HEADS, "id2label": labels}, {}))
    assert loaded.card.classes.names == names and loaded.card.classes.ids == (0, 1, 2)
    assert says in " ".join(loaded.report.lines())


def test_coco_names_are_only_for_coco_class_counts(tmp_path: Path) -> None:
    with_gaps = {str(i): f"thing {i}" for i in range(91) if i % 3}
    loaded = load_model(folder_of(tmp_path, {**HEADS, "id2label": with_gaps}, {}, classes=91))
    assert loaded.card.classes.names[1] == "thing 1" and loaded.card.classes.names[3] == "unused 3"


def test_missing_processor_logs_assumptions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_model(folder_of(tmp_path, HEADS))
    assert "has no preprocessing config" in caplog.text
    caplog.clear()
    processor = {"image_processor": {"size": {"height": 64, "width": 64}}, "processor_class": "X"}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    assert load_model(tmp_path).card.preprocessing.box == (64, 64)
    assert "prepared" not in caplog.text
