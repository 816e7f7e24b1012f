"""The deployment examples: the FastAPI server, the client of a model server, Triton's configuration."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import torch
import tritonclient
from fastapi.testclient import TestClient
from google.protobuf import text_format
from PIL import Image

import detrscope as ds
from detrscope.cli.app import app as cli
from detrscope.data.drawn_dogs import write_drawn
from detrscope.inference.detector import Detector
from tests.conftest import ROOT
from tests.support.doc_blocks import BLOCKS
from tests.support.doc_blocks import EXAMPLES as EXAMPLES_OF_PAGES
from tests.support.inference_server import inference_app, serving

EXAMPLES = ROOT / "examples"
CONFIG = EXAMPLES / "triton" / "sprint" / "config.pbtxt"


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


# Triton's own schema, by its path: its package imports grpcio, which nothing else here needs.
SCHEMA = module(Path(tritonclient.__path__[0]) / "grpc" / "model_config_pb2.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped model, exported, and images of unequal sizes."""
    folder = tmp_path_factory.mktemp("deployed")
    cli(
        ["export", "--model", "sprint-dense-n", "--out", str(folder / "model.onnx"), "--quiet"],
        standalone_mode=False,
    )
    write_drawn(folder / "dogs", count=4, seed=1)
    for number, path in enumerate(images(folder)):
        with Image.open(path) as image:
            image.crop((0, 0, image.width, image.height - 16 * number)).save(path)
    return folder


def images(folder: Path) -> list[Path]:
    return sorted((folder / "dogs" / "images").glob("*.png"))


@pytest.fixture(scope="module")
def detector(world: Path) -> Detector:
    return ds.load(world / "model.onnx")


@pytest.fixture(scope="module")
def client(world: Path) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRSCOPE_MODEL", str(world / "model.onnx"))
        app = module(EXAMPLES / "server.py").create_app()
    with TestClient(app) as client:
        yield client


def post(client: TestClient, path: Path, **query: Any) -> Any:
    with path.open("rb") as file:
        return client.post("/detect", files={"image": (path.name, file)}, params=query)


def test_server_gives_what_detect_prints(
    world: Path, client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in images(world):
        words = ["detect", str(path), "--model", str(world / "model.onnx"), "--threshold", "0.1", "--json"]
        cli(words, standalone_mode=False)
        (expected,) = json.loads(capsys.readouterr().out)
        answer = post(client, path, threshold=0.1)
        assert answer.status_code == 200
        assert answer.json() == expected | {"source": path.name}
        assert expected["detections"]


def test_default_threshold_is_that_of_detect(world: Path, client: TestClient, detector: Detector) -> None:
    found = post(client, images(world)[0]).json()["detections"]
    assert [row["score"] for row in found] == detector.detect(images(world)[0]).scores.tolist()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_no_image_is_refused(content: bytes, client: TestClient) -> None:
    answer = client.post("/detect", files={"image": ("a.png", io.BytesIO(content))})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("a.png: ")


@pytest.mark.parametrize("threshold", ["-1", "1.5", "nan", "many"])
def test_wrong_threshold_is_refused(threshold: str, world: Path, client: TestClient) -> None:
    answer = post(client, images(world)[0], threshold=threshold)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "threshold"]


def test_missing_file_is_refused(client: TestClient) -> None:
    answer = client.post("/detect")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "image"]


def test_requests_at_once_give_their_own_detections(world: Path, client: TestClient) -> None:
    alone = [post(client, path, threshold=0.1).json() for path in images(world)]
    with ThreadPoolExecutor(4) as pool:
        together = [*pool.map(lambda path: post(client, path, threshold=0.1).json(), images(world) * 4)]
    assert together == alone * 4


def test_model_runs_in_one_thread_at_a_time(
    world: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, detect = [0], [0], Detector.detect

    def counted(self: Detector, *arguments: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.1)
        running[0] -= 1
        return detect(self, *arguments)

    monkeypatch.setattr(Detector, "detect", counted)
    with ThreadPoolExecutor(3) as pool:
        answers = [*pool.map(lambda path: post(client, path), images(world)[:3])]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert most == [1]


def test_event_loop_answers_while_the_model_runs(
    world: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, goes_on, detect = threading.Event(), threading.Event(), Detector.detect

    def waiting(self: Detector, *arguments: Any) -> Any:
        started.set()
        assert goes_on.wait(60)
        return detect(self, *arguments)

    monkeypatch.setattr(Detector, "detect", waiting)
    with ThreadPoolExecutor(2) as pool:
        try:
            slow = pool.submit(post, client, images(world)[0])
            assert started.wait(60)
            assert pool.submit(client.get, "/openapi.json").result(30).status_code == 200
            assert not slow.done()
        finally:
            goes_on.set()
        assert slow.result(60).status_code == 200


@pytest.mark.parametrize(
    ("model", "message"),
    [("", "DETRSCOPE_MODEL: not set"), ("no.onnx", "DETRSCOPE_MODEL: model 'no.onnx': no such file")],
)
def test_server_does_not_start_without_a_model(model: str, message: str) -> None:
    words = ("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--factory", "server:create_app")
    command = [sys.executable, *words]
    environment = os.environ | {"DETRSCOPE_MODEL": model}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


def test_served_model_detects_what_the_file_detects(world: Path, detector: Detector) -> None:
    open_served = module(EXAMPLES / "model_server.py").open_served
    with serving(inference_app(world / "model.onnx", "sprint")) as address:
        served = open_served(str(world / "model.onnx"), address, "sprint")
        for path in images(world):
            found, expected = served.detect(path, 0.1), detector.detect(path, 0.1)
            assert found.names == expected.names and len(found.names)
            assert (found.scores - expected.scores).abs().max() < 1e-3
            assert (found.boxes_xyxy - expected.boxes_xyxy).abs().max() < 0.5


def test_client_says_what_the_server_refuses(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client, photo, file = module(EXAMPLES / "model_server.py"), images(world)[0], world / "model.onnx"
    with serving(inference_app(file, "sprint")) as address:
        monkeypatch.setattr(sys, "argv", ["model_server.py", str(photo), str(file), address, "other"])
        with pytest.raises(SystemExit) as stopped:
            client.main()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err == "[404] unknown model other\n"


def test_lines_of_the_page_give_the_detections(
    world: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    (world / "photo.jpg").write_bytes(images(world)[0].read_bytes())
    (code,) = EXAMPLES_OF_PAGES.findall((ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    exec(compile(code, "deploy.md", "exec"), names)
    expected = detector.detect(world / "photo.jpg", 0.5)
    assert len(expected.names) and torch.equal(names["detections"].scores, expected.scores)
    assert torch.equal(names["detections"].boxes_xyxy, expected.boxes_xyxy)


def test_page_shows_the_triton_configuration() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (shown,) = [text for _, text in BLOCKS.findall(page) if text.startswith("name:")]
    assert triton_config(shown) == triton_config(CONFIG.read_text())


def test_client_prints_its_usage() -> None:
    command = [sys.executable, str(EXAMPLES / "model_server.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("usage: python")


def test_triton_configuration_is_that_of_the_file(world: Path) -> None:
    config = triton_config(CONFIG.read_text())
    assert config.name == CONFIG.parent.name and config.max_batch_size == 0
    graph = onnx.load(world / "model.onnx").graph
    for values, tensors in ((graph.input, config.input), (graph.output, config.output)):
        assert {v.name: axes(v) for v in values} == {t.name: list(t.dims) for t in tensors}
        assert {v.type.tensor_type.elem_type for v in values} == {onnx.TensorProto.FLOAT}
        assert {t.data_type for t in tensors} == {SCHEMA.TYPE_FP32}


def triton_config(text: str) -> Any:
    return text_format.Parse(text, SCHEMA.ModelConfig())


def axes(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a tensor's axes, -1 where any size will do, as Triton writes it."""
    return [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]
