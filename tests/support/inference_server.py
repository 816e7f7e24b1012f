"""A stand-in for OpenVINO Model Server and Triton: an ONNX file behind the KServe protocol, version 2, over HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request, Response

HEADER = (
    "Inference-Header-Content-Length"  # of the binary tensor data extension: bytes of JSON before the tensors
)


def inference_app(path: Path, served: str) -> FastAPI:
    """Application that runs a file under a name, with tensors in binary."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    app = FastAPI()

    @app.post("/v2/models/{model}/infer")
    async def infer(model: str, request: Request) -> Response:
        if model != served:
            return Response(json.dumps({"error": f"unknown model {model}"}), 404)
        body = await request.body()
        start = int(request.headers[HEADER])
        feeds = {}
        for tensor in json.loads(body[:start])["inputs"]:
            assert tensor["datatype"] == "FP32"
            end = start + tensor["parameters"]["binary_data_size"]
            feeds[tensor["name"]] = np.frombuffer(body[start:end], np.float32).reshape(tensor["shape"])
            start = end
        arrays = dict(zip(names, session.run(names, feeds), strict=True))
        outputs = [
            {
                "name": name,
                "datatype": "FP32",
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in arrays.items()
        ]
        head = json.dumps({"model_name": model, "outputs": outputs}).encode()
        content = head + b"".join(array.tobytes() for array in arrays.values())
        return Response(content, headers={HEADER: str(len(head))}, media_type="application/octet-stream")

    return app


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an application from a thread; yield host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
