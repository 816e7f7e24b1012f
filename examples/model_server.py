"""Detect with a model that OpenVINO Model Server or Triton runs. See docs/deploy.md."""

import json
import sys
from collections.abc import Mapping

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from detrscope.core.errors import UserError
from detrscope.inference.detector import Detector
from detrscope.inference.graph_engine import GraphEngine
from detrscope.inference.graph_metadata import GraphMetadata
from detrscope.inference.image_detections import ImageDetections
from detrscope.inference.onnx_engine import read_metadata, read_onnx
from detrscope.inference.openvino_engine import read_openvino


class ServedEngine(GraphEngine):
    """An exported graph on a server with the KServe protocol (version 2) over HTTP.

    Args:
        metadata: metadata of the exported file.
        address: host and port of the server.
        model: name of the model on the server.
    """

    name = "served"

    def __init__(self, metadata: GraphMetadata, address: str, model: str) -> None:
        if metadata.attention:
            raise UserError(f"{model}: is exported with attention; export it without to serve it")
        super().__init__(metadata, "server", metadata.precision)
        self.client, self.model = InferenceServerClient(address), model

    def run(self, inputs: Mapping[str, np.ndarray], *, attention: bool) -> dict[str, np.ndarray]:
        """Run the graph on the server; see `GraphEngine.run`."""
        tensors = []
        for name, array in inputs.items():
            tensors.append(InferInput(name, list(array.shape), "FP32"))
            tensors[-1].set_data_from_numpy(array)
        result = self.client.infer(self.model, tensors)
        return {name: np.array(result.as_numpy(name)) for name in ("logits", "boxes_cxcywh")}


def open_served(file: str, address: str, model: str) -> Detector:
    """Return a detector whose model runs on a server and whose card is in a local exported file.

    Args:
        file: the exported file (.onnx, .xml): classes, preprocessing and scoring are in it.
        address: host and port of the server.
        model: name of the model on the server.
    """
    metadata = read_openvino(file)[1] if file.endswith(".xml") else read_metadata(read_onnx(file), file)
    return Detector(ServedEngine(metadata, address, model), metadata.card)


def main() -> None:
    """Print the detections in one image."""
    if len(sys.argv) != 5:
        print(f"usage: python {sys.argv[0]} photo.jpg model.xml localhost:8000 MODEL", file=sys.stderr)
        sys.exit(2)
    photo, file, address, model = sys.argv[1:]
    try:
        detections = open_served(file, address, model).detect(photo)
    except (UserError, InferenceServerException, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(json.dumps(ImageDetections(photo, detections).to_json()))


if __name__ == "__main__":
    main()
