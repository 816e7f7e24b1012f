"""The interface between a detector and whatever runs its model."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from detrscope.core.probe import Probe
from detrscope.core.types import Outputs

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
EngineName = Literal["auto", "torch", "torch-compile", "onnx", "openvino"]


class Engine(Protocol):
    """Runner of one model: PyTorch today, exported models behind the same interface.

    Everything above it (`Detector`, traces, faithfulness) uses only normalised images, `Outputs` and a `Probe`.

    Attributes:
        name: name of the engine, as `load` takes it.
        device: device that computes, such as "cpu" or "cuda:0".
        precision: precision of weights and activations, such as "fp32".
        sites: attention sites of the model, in the order of the path.
        feature_sites: convolutions of the backbone whose feature maps can be recorded.
    """

    name: str
    device: str
    precision: str
    sites: tuple[str, ...]
    feature_sites: tuple[str, ...]

    def predict(self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        """Return the predictions of a normalised batch, and record the requested sites.

        Args:
            images: [B, 3, H, W] float, on any device.
            padding: [B, H, W] bool, True where an image is padded; None where none is.
            probe: sites to record and edits to apply; filled. Without edits it does not change the outputs.

        Raises:
            UserError: a site or query that the model does not have, or a request that this engine cannot serve.
        """
        ...
