"""Weights as training scripts keep them: containers, prefixes, other objects beside them, half precision."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detrscope.checkpoints.load import load_backbone_checkpoint, load_model
from detrscope.core.errors import UserError
from tests.support.published_checkpoints import ARGS, official_state
from tests.support.tiny_models import tiny

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return official_state()


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def zeros(state: Mapping[str, Tensor]) -> State:
    return {key: torch.zeros_like(tensor) for key, tensor in state.items()}


# What lies in the file, what must be said, what must be named as left out.
WRAPPERS: dict[str, tuple[Callable[[State], dict[str, Any]], str, str]] = {
    "lightning": (
        lambda s: {
            "state_dict": {**prefixed("model.", s), "criterion.empty_weight": torch.ones(4)},
            "hyper_parameters": {"args": vars(ARGS)},
            "epoch": 3,
        },
        "prefix 'model.' removed from",
        "criterion",
    ),
    "parallel": (lambda s: {"model": prefixed("module.", s)}, "prefix 'module.' removed from", ""),
    "compiled": (lambda s: {"model": prefixed("_orig_mod.", s)}, "_orig_mod.", ""),
    "compiled inside": (
        lambda s: {"model": {k.replace("transformer.", "transformer._orig_mod."): t for k, t in s.items()}},
        "_orig_mod.",
        "",
    ),
    "compiled and parallel": (
        lambda s: {"state_dict": prefixed("module._orig_mod.", s)},
        "prefix 'module.' removed from",
        "",
    ),
    "own module name": (lambda s: prefixed("net.detr.", s), "prefix 'net.detr.' removed from", ""),
    "average nested": (
        lambda s: {"ema": {"module": s, "updates": 9}, "model": zeros(s)},
        "weights under 'ema.module' (the running average)",
        "model",
    ),
    "average plain": (lambda s: {"model_ema": s, "model": zeros(s)}, "'model_ema' (the running", "model"),
    "average by prefix": (
        lambda s: {"state_dict": {**prefixed("ema_model.module.", s), **prefixed("model.", zeros(s))}},
        "prefix 'ema_model.module.' removed from",
        "model.*",
    ),
    "state dict": (
        lambda s: {"model_state_dict": s, "loss": torch.tensor(1.0)},
        "'model_state_dict'",
        "loss",
    ),
    "no tensor among them": (lambda s: {"model": {**s, "version": 2}}, "weights under 'model'", "version"),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_are_removed_and_logged(kind: str, state: State, tmp_path: Path) -> None:
    wrap, says, skips = WRAPPERS[kind]
    torch.save({"args": ARGS, **wrap(state)} if "prefix" not in kind else wrap(state), tmp_path / "w.pth")
    plain = tmp_path / "plain.pth"
    torch.save({"model": state, "args": ARGS}, plain)
    loaded, expected = load_model(tmp_path / "w.pth"), load_model(plain)
    for key, tensor in expected.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], tensor), key
    text = " | ".join(loaded.report.lines())
    assert says in text and skips in " ".join(loaded.report.skipped)


def test_arguments_in_hyper_parameters_are_read(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed("model.", state), "hyper_parameters": vars(ARGS)}, tmp_path / "l.ckpt")
    assert load_model(tmp_path / "l.ckpt").card.config["encoder"]["heads"] == ARGS.nheads


def test_assumed_heads_are_logged(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(state, tmp_path / "bare.pth")
    load_model(tmp_path / "bare.pth")
    assert "no number of attention heads" in caplog.text and "no preprocessing config" in caplog.text
    assert "3 classes without names" in caplog.text


def test_assumed_coco_classes_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"model": official_state(80), "args": ARGS}, tmp_path / "80.pth")
    assert load_model(tmp_path / "80.pth").card.classes.names[0] == "person"
    assert "80 classes without names: COCO's are assumed" in caplog.text


BESIDE = {
    "numpy float": np.float64(0.5),
    "numpy int": np.int64(3),
    "numpy bool": np.bool_(True),
    "numpy array": np.arange(3),
    "path": pathlib.PurePosixPath("/a/b"),
    "posix path": pathlib.Path("a") / "b",
    "date": datetime.datetime(2020, 1, 1),
    "namespace": argparse.Namespace(out=pathlib.Path("x"), lr=np.float32(1)),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_harmless_objects_beside_the_weights(kind: str, state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "args": ARGS, "best": BESIDE[kind]}, tmp_path / "b.pth")
    assert "best" in load_model(tmp_path / "b.pth").report.skipped
    mixed = argparse.Namespace(**vars(ARGS), extra=BESIDE[kind])
    torch.save({"model": state, "args": mixed}, tmp_path / "m.pth")
    assert load_model(tmp_path / "m.pth").card.config["encoder"]["heads"] == ARGS.nheads


def test_half_precision_is_logged(state: State, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        torch.save({"model": {k: t.to(dtype) for k, t in state.items()}, "args": ARGS}, tmp_path / "h.pth")
        loaded = load_model(tmp_path / "h.pth")
        assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
        assert f"weights in {dtype}".replace("torch.", "") in " ".join(loaded.report.lines())


def test_prefix_of_backbone_weights_is_removed(tmp_path: Path) -> None:
    import torchvision

    classifier = torchvision.models.resnet18(weights=None)
    torch.save({"state_dict": prefixed("module.", classifier.state_dict())}, tmp_path / "r18.pth")
    model = tiny("detr-r18").model
    report = load_backbone_checkpoint(model, str(tmp_path / "r18.pth"))
    assert torch.equal(model.backbone.body.conv1.weight, classifier.conv1.weight)
    assert "prefix 'module.' removed from" in " ".join(report.lines())


class Runs:
    """Runs something when it is unpickled the unsafe way."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Runs(print, "owned"), "print"),
        (Runs(exec, "raise SystemExit"), "exec"),
        (Runs(Path.touch, Path("owned")), "getattr"),
    ],
    ids=["print", "exec", "method"],
)
def test_refused_objects_are_named(
    evil: Runs, name: str, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": state, "args": ARGS, "x": evil}, tmp_path / "evil.pth")
    with pytest.raises(
        UserError, match=rf"evil.pth: .*run code when loaded: {name}; save the weights"
    ) as error:
        load_model(tmp_path / "evil.pth")
    assert "add_safe_globals" in str(error.value) and "\n" not in str(error.value)
    assert "owned" not in capsys.readouterr().out


def test_allowed_globals_are_loaded(state: State, tmp_path: Path) -> None:
    class_of_mine = argparse.Action
    torch.save({"model": state, "args": ARGS, "x": class_of_mine}, tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"argparse\.Action"):
        load_model(tmp_path / "mine.pth")
    with torch.serialization.safe_globals([class_of_mine]):
        assert load_model(tmp_path / "mine.pth").report.loaded


def test_decompression_bombs_are_refused(state: State, tmp_path: Path) -> None:
    torch.save({"model": {**state, "class_embed.weight": torch.zeros(1 << 22)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    with pytest.raises(UserError, match=r"bytes that unpack to .*unpack the file"):
        load_model(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"class_embed.weight": torch.zeros(4, 32, dtype=torch.int8)},
            "holds torch.int8, expected plain torch.f",
        ),
        ({"class_embed.weight": torch.zeros(1).expand(4, 1 << 40)}, "width is 1099511627776"),
        ({"query_embed.weight": torch.zeros(1).expand(1 << 40, 32)}, "queries is 1099511627776"),
        ({"class_embed.weight": torch.zeros(1, 32), "class_embed.bias": torch.zeros(1)}, "has no class"),
        ({"class_embed.weight": torch.tensor(1.0)}, "class_head.weight"),
    ],
)
def test_misfitting_tensors_are_refused_before_allocation(
    change: State, message: str, state: State, tmp_path: Path
) -> None:
    torch.save({"model": {**state, **change}, "args": ARGS}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path / "odd.pth")
    assert "odd.pth" in str(error.value)


@pytest.mark.parametrize("given", [{"nheads": "8"}, {"nheads": 0}, {"dilation": "False"}, {"pre_norm": 1}])
def test_arguments_of_wrong_types_are_named(given: dict[str, object], state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "args": argparse.Namespace(**given)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"a.pth: args: {next(iter(given))}: expected"):
        load_model(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [3, [1, 2], None, "text", {}, {"model": {}}, {"model": 3}, {1: 2}])
def test_files_without_weights(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"none.pth: expected a dict of tensors") as error:
        load_model(tmp_path / "none.pth")
    assert "\n" not in str(error.value)


def test_damaged_pickle_is_a_one_line_error(state: State, tmp_path: Path) -> None:
    path = tmp_path / "d.pth"
    torch.save(
        {"model": {"class_embed.weight": torch.zeros(4, 8)}}, path, _use_new_zipfile_serialization=False
    )
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 80)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(UserError) as error:
            load_model(path)
        assert "\n" not in str(error.value)
