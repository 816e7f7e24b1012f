"""The PyTorch engine: a model, the device it is on and the precision it computes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import class_scores
from detrscope.core.probe import Probe
from detrscope.core.records import Gradient
from detrscope.core.types import Batch, Outputs
from detrscope.inference.engine import Engine, Precision
from detrscope.ops.kernels.freed_memory import keep_freed_memory
from detrscope.ops.kernels.native_precision import DTYPES, fastest_precision, warn_if_precision_emulated


class InputGradient(NamedTuple):
    """Gradient of one logit by the input of the model, and by the tokens that enter its encoder."""

    image: Tensor  # [3, h, w] by the normalised image
    tokens: Tensor  # [S, D] the tokens themselves
    by_tokens: Tensor  # [S, D] by the tokens


class TorchEngine:
    """A model that PyTorch runs as it is, in training or prepared by `optimised`.

    Args:
        model: network; the caller has set its mode, device and precision.
    """

    name: str = "torch"

    def __init__(self, model: DetectionTransformer) -> None:
        self.model = model
        self._like = next(model.backbone.parameters())  # not of the heads, which may stay in float32
        self.device = str(self._like.device)
        if self._like.device.type == "cpu":
            keep_freed_memory()
        names = {dtype: name for name, dtype in DTYPES.items()}
        self.precision: str = names.get(self._like.dtype, str(self._like.dtype))
        self.sites, self.feature_sites = model.sites, model.feature_sites

    @classmethod
    def optimised(cls, model: DetectionTransformer, device: torch.device, dtype: torch.dtype) -> Self:
        """Return an engine for inference only; the model is changed in place.

        Evaluation mode, no gradients of parameters, norms folded into convolutions, channels last.

        Args:
            model: the network.
            device: device to move it to.
            dtype: type of weights and activations.
        """
        model.eval().requires_grad_(False)
        model.fold_norms()
        model.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
        model.heads.float()  # bf16 has 8 bits of mantissa: boxes would be rounded to two pixels
        return cls(model)

    def predict(self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        """Return the predictions of images [B, 3, H, W], and record the requested sites; see `Engine.predict`."""
        batch = Batch(self._to_model(images), None if padding is None else padding.to(self.device))
        if probe is None:
            with torch.inference_mode():
                return self._forward(batch)
        with torch.set_grad_enabled(
            bool(probe.explain)
        ):  # records are ordinary tensors, not inference tensors
            outputs = self._forward(batch, probe)
            probe.gradients = tuple(self._gradient(entry, outputs, probe) for entry in probe.explain)
        return outputs

    def input_gradients(self, images: Tensor, logits: Sequence[tuple[int, int]]) -> list[InputGradient]:
        """Return the gradients of logits with respect to the normalised image and to the tokens of its feature maps.

        Args:
            images: [1, 3, H, W] float.
            logits: pairs of query and class index.

        Returns:
            Gradients in float32 on the CPU for each pair.
        """
        images = self._to_model(images).requires_grad_()
        probe = Probe(sites=[], tokens=True)
        with torch.enable_grad():
            table = self._forward(Batch(images), probe).logits[-1, 0]  # [Q, K]
        assert probe.tokens is not None
        found = []
        for pair in logits:
            image, tokens = torch.autograd.grad(table[pair], [images, probe.tokens], retain_graph=True)
            kept = (image[0], probe.tokens.detach()[0], tokens[0])
            found.append(InputGradient(*(tensor.float().cpu() for tensor in kept)))
        return found

    def _to_model(self, images: Tensor) -> Tensor:
        return images.to(device=self._like.device, dtype=self._like.dtype)

    def _forward(self, batch: Batch, probe: Probe | None = None) -> Outputs:
        outputs: Outputs = self.model(batch) if probe is None else self.model(batch, probe=probe)
        return outputs

    def _gradient(self, entry: int | tuple[int, int], outputs: Outputs, probe: Probe) -> Gradient:
        """Return the gradient of a query's logit with respect to the output of each recorded site."""
        logits = outputs.logits[-1, 0]  # [Q, K]
        query, index = entry if isinstance(entry, tuple) else (entry, None)
        if not 0 <= query < len(logits):
            raise UserError(f"query {query}: this model has queries 0 to {len(logits) - 1}")
        scores = class_scores(logits[query], self.model.scoring)  # [classes]
        index = int(scores.argmax()) if index is None else index
        if not 0 <= index < len(scores):
            raise UserError(f"class index {index}: this model has classes 0 to {len(scores) - 1}")
        gradients = torch.autograd.grad(
            logits[query, index], list(probe.taps.values()), retain_graph=True, materialize_grads=True
        )
        return Gradient(query, index, {site: g.cpu() for site, g in zip(probe.taps, gradients, strict=True)})


class CompiledTorchEngine(TorchEngine):
    """A model that torch.compile compiles for plain predictions; what is recorded runs as it is.

    Compiling takes up to a minute at the first image, and again when the size first changes.
    """

    name = "torch-compile"

    def __init__(self, model: DetectionTransformer) -> None:
        super().__init__(model)
        self._compiled = torch.compile(model)

    def _forward(self, batch: Batch, probe: Probe | None = None) -> Outputs:
        if probe is not None:
            return super()._forward(batch, probe)
        outputs: Outputs = self._compiled(batch)
        return outputs


def require_torch_engine(engine: Engine, purpose: str) -> TorchEngine:
    """Return the engine if PyTorch runs the model.

    Args:
        engine: the engine of a detector.
        purpose: what needs it, for the message.

    Raises:
        UserError: another engine runs the model.
    """
    if not isinstance(engine, TorchEngine):
        raise UserError(
            f"{purpose} needs PyTorch, but engine '{engine.name}' runs this model; load it with engine='torch'"
        )
    return engine


def choose_device(name: str) -> torch.device:
    """Return a device by name; "auto" takes a GPU where there is one.

    Raises:
        UserError: not a device, or not one of this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # its first sentence
        raise UserError(f"device '{name}': {reason[:120]}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "meta":
        raise UserError("device 'meta': its tensors have no numbers; use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_dtype(precision: Precision, card: ModelCard, device: torch.device) -> torch.dtype:
    """Return the type to compute in; "auto" is that of the card's metrics where it is native, else float32.

    Raises:
        UserError: a precision that PyTorch does not compute in on this device.
    """
    if precision == "auto":
        native = card.precision == "bf16" and fastest_precision(device) == "bf16"
        return torch.bfloat16 if native else torch.float32
    if precision == "int8":
        raise UserError("precision int8 is for exported models; export with precision int8")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 is for GPUs; use bf16 on a CPU")
    warn_if_precision_emulated(precision, device)
    return DTYPES[precision]
