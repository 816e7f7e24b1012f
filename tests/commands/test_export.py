"""`export`: files that agree with PyTorch and go wherever a model name goes; others are not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import detrscope as ds
from detrscope.checkpoints.native import save_checkpoint
from detrscope.cli.app import app
from detrscope.commands import export as command
from detrscope.commands.export import ExportDisagrees, ExportOptions
from detrscope.commands.export_int8 import Int8Options
from detrscope.core.errors import UserError
from detrscope.core.model_card import SHIPPED_SOURCE
from detrscope.core.postprocess import Scored
from detrscope.inference.export.check import TOLERANCES, pair_detections
from detrscope.inference.graph_metadata import KEY
from detrscope.inference.onnx_engine import read_metadata
from tests.support.tiny_models import CLASSES, tiny

SHIPPED = "sprint-dense-n"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose ids are not contiguous and whose names are awkward."""
    loaded = tiny("sprint-dense-n")
    classes = replace(CLASSES, names=("dog", 'a "quoted" <name>\n& more', "犬"))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, loaded.model, replace(loaded.card, classes=classes))
    return path


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model as ONNX with attention and as OpenVINO without."""
    folder = tmp_path_factory.mktemp("exported")
    for name, attention in (("with.onnx", True), ("plain.xml", False)):
        result = ds.export(checkpoint, folder / name, options=ExportOptions(with_attention=attention))
        assert result.differences and not any(d.exceeds(TOLERANCES["fp32"]) for d in result.differences)
        assert {d.batch for d in result.differences} == {1, 2}
        assert len({(d.height, d.width) for d in result.differences}) > 1
    return {path.name: path for path in folder.iterdir()}


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 110, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "engine"), [("with.onnx", "onnx"), ("with.onnx", "openvino"), ("plain.xml", "openvino")]
)
def test_exported_model_detects_like_the_checkpoint(
    checkpoint: Path, exported: dict[str, Path], name: str, engine: Any
) -> None:
    expected = ds.load(checkpoint).detect(picture(), 0.0)
    detector = ds.load(exported[name], engine=engine)
    assert (detector.engine.name, detector.engine.precision) == (engine, "fp32")
    found = detector.detect(picture(), 0.0)
    assert found.labels.tolist() == expected.labels.tolist() and found.names == expected.names
    assert (found.scores - expected.scores).abs().max() < 1e-3
    assert (found.boxes_xyxy - expected.boxes_xyxy).abs().max() < 0.5
    assert {"dog", "犬"} <= set(detector.classes.names)


def test_exported_model_traces_and_takes_edits(checkpoint: Path, exported: dict[str, Path]) -> None:
    edits = [ds.Gain("decoder.*.cross", 0.0, heads=(1,))]
    detectors = [ds.load(checkpoint), ds.load(exported["with.onnx"])]
    expected, found = (detector.trace(picture(), edits=edits) for detector in detectors)
    assert found.sites == expected.sites and found.edits == expected.edits
    maps = [trace.cross_attention(3).values for trace in (expected, found)]
    assert (maps[0] - maps[1]).abs().max() < 1e-4


def test_a_checkpoint_is_converted_once_for_an_engine(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path))
    expected = ds.load(checkpoint).detect(picture(), 0.0)
    first = ds.load(checkpoint, engine="openvino")
    (kept,) = (tmp_path / "converted").iterdir()
    written = kept.stat().st_ino
    second = ds.load(checkpoint, engine="onnx")
    assert [path.stat().st_ino for path in (tmp_path / "converted").iterdir()] == [written]
    for detector in (first, second):
        assert (detector.detect(picture(), 0.0).scores - expected.scores).abs().max() < 1e-3


def test_a_damaged_conversion_is_made_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path))
    ds.load(checkpoint, engine="onnx")
    (kept,) = (tmp_path / "converted").iterdir()
    kept.write_bytes(b"damaged")
    detector = ds.load(checkpoint, engine="onnx")
    assert "again" in caplog.text and kept.stat().st_size > 1000
    assert len(detector.detect(picture(), 0.0)) == len(ds.load(checkpoint).detect(picture(), 0.0))


def test_a_model_that_disagrees_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = command.build_onnx

    def build_wrongly(*args: Any, **options: Any) -> onnx.ModelProto:
        graph = build(*args, **options)
        (bias,) = [x for x in graph.graph.initializer if x.name.endswith("heads.class_head.bias")]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
        return graph

    monkeypatch.setattr(command, "build_onnx", build_wrongly)
    with pytest.raises(ExportDisagrees, match=r"not written: detections differ .* score by 0\.0"):
        ds.export(checkpoint, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("m.pt", ExportOptions(), r"m\.pt: expected a name that ends in \.onnx or \.xml"),
        ("m.onnx", ExportOptions("openvino"), r"format openvino is written to a file that ends in \.xml"),
        ("m.onnx", ExportOptions(precision="fp16"), "precision fp16: is for format openvino"),
        ("m.xml", ExportOptions(precision="int8"), "int8: needs a dataset to calibrate on"),
        (
            "m.xml",
            ExportOptions(int8=Int8Options(calibration_split="val")),
            "are for precision int8, found fp32",
        ),
    ],
)
def test_wrong_arguments_are_named(
    checkpoint: Path, tmp_path: Path, out: str, options: ExportOptions, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ds.export(checkpoint, tmp_path / out, options=options)
    assert not list(tmp_path.iterdir())


def test_exported_files_refuse_what_only_a_checkpoint_does(exported: dict[str, Path]) -> None:
    plain, full = ds.load(exported["plain.xml"]), ds.load(exported["with.onnx"], engine="onnx")
    with pytest.raises(UserError, match="exported without attention; export it again with attention"):
        plain.trace(picture())
    with pytest.raises(UserError, match="exported models give no gradients; load the checkpoint"):
        full.trace(picture(), explain=[0])
    with pytest.raises(UserError, match="exported models give no attention values"):
        full.trace(picture(), values=True)
    both = ds.Gain("decoder.*.cross", 0.0, queries=(1,), keys=(2,))
    with pytest.raises(UserError, match="several of queries, keys and points is not an input"):
        full.trace(picture(), edits=[both])
    with pytest.raises(UserError, match="a swap of tensors is not an input of exported models"):
        full.trace(picture(), edits=[ds.Swap("decoder.0.cross", "key", torch.zeros(1, 4, 2, 8))])
    for options, message in (
        ({"weights": "x"}, "weights: an exported model"),
        ({"device": "cuda"}, "device 'cuda': engine of an exported model runs on the CPU"),
        ({"engine": "torch"}, "engine torch runs checkpoints"),
        ({"engine": "onnx", "precision": "bf16"}, "engine onnx computes this file in fp32, not in bf16"),
        ({"precision": "int8"}, "cannot compute it in int8"),
    ):
        with pytest.raises(UserError, match=message):
            ds.load(exported["with.onnx"], **options)
    with pytest.raises(UserError, match="is an exported model already"):
        ds.export(exported["with.onnx"])


def test_files_that_are_not_ours_are_named(exported: dict[str, Path], tmp_path: Path) -> None:
    graph = onnx.load(exported["with.onnx"])
    (tmp_path / "short.onnx").write_bytes(exported["with.onnx"].read_bytes()[:1000])
    (tmp_path / "short.xml").write_text(exported["plain.xml"].read_text()[:1000])
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    graph.metadata_props.add(key=KEY, value='{"format": 9}')
    onnx.save(graph, tmp_path / "future.onnx")
    for name, message in (
        ("short.onnx", r"short\.onnx: not a readable ONNX file"),
        ("short.xml", r"short\.xml: not a readable OpenVINO file"),
        ("foreign.onnx", r"foreign\.onnx: has no metadata of detrscope; write it with: detrscope export"),
        ("future.onnx", r"future\.onnx: metadata has format 9; this version reads format 1"),
    ):
        with pytest.raises(UserError, match=message):
            ds.load(tmp_path / name)


def test_the_onnx_file_needs_images_only(exported: dict[str, Path]) -> None:
    """Edits have neutral defaults inside, so that any program that runs ONNX gets plain detections."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported["with.onnx"]), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["images"]
    logits, boxes = session.run(["logits", "boxes_cxcywh"], {"images": np.zeros((1, 3, 64, 96), np.float32)})
    assert logits.shape[1:] == (1, 7, 3) and boxes.shape[1:] == (1, 7, 4)
    metadata = read_metadata(onnx.load(exported["with.onnx"]), "x")
    assert metadata.attention and metadata.card.classes.ids == (1, 7, 900)


def test_evaluation_of_an_exported_model_equals_the_checkpoints(
    exported: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    data = "drawn-dogs:count=1,val=5,seed=3"
    rows = []
    for name, model in (("expected", checkpoint), ("found", exported["plain.xml"])):
        file = tmp_path / f"{name}.json"
        ds.evaluate(model, data, batch_size=2, results_file=file)
        rows.append(json.loads(file.read_text()))
    assert len(rows[0]) == len(rows[1]) > 5
    for expected, found in zip(*rows, strict=True):
        assert (found["image_id"], found["category_id"]) == (expected["image_id"], expected["category_id"])
        assert found["score"] == pytest.approx(expected["score"], abs=1e-3)
        assert found["bbox"] == pytest.approx(expected["bbox"], abs=0.5)


def test_int8_keeps_ap_and_reports_drift(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    out = tmp_path / "small.xml"
    arguments = ["export", "--model", SHIPPED, "--out", str(out), "--precision", "int8", "--with-attention"]
    arguments += ["--data", "drawn-dogs:count=24,val=24", "--calibration", "24", "--json", "-q"]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0
    result = json.loads(ran.stdout)
    assert result["ap"] - result["attempts"][-1]["ap"] <= 0.015
    assert result["attempts"][-1]["parts"]["backbone"] > 5
    assert {row["site"] for row in result["drift"]} >= {"encoder.0.self", "decoder.0.cross"}
    assert all(0.5 < row["rank_correlation"] < 1 for row in result["drift"])
    detector = ds.load(out)
    assert detector.engine.precision == "int8"
    assert detector.card.source == SHIPPED_SOURCE  # so that photographs are warned about
    assert out.with_suffix(".bin").stat().st_size < 3_000_000  # a third of the weights in float32
    with pytest.raises(UserError, match="its weights are int8"):
        ds.load(out, precision="fp32")


def test_detections_pair_whatever_their_query_numbers() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]])
    scores, classes = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0, 1, 0])
    reference = Scored(boxes, scores, classes, torch.tensor([4, 5, 6]))
    order = [1, 0, 2]
    other = Scored(boxes[order] + 0.2, scores[order], classes[order], torch.tensor([0, 1, 2]))
    pairs = pair_detections(reference, other, TOLERANCES["fp32"])
    assert [(p.reference_query, p.query, p.same_class) for p in pairs] == [
        (4, 1, True),
        (5, 0, True),
        (6, 2, True),
    ]
    assert all(p.box == pytest.approx(0.2, abs=1e-5) and p.score == 0 for p in pairs)
    assert len(pair_detections(reference, other, TOLERANCES["fp32"], minimum_score=0.3)) == 2
