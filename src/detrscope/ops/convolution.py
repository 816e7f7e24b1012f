"""Convolution with its norm folded in and, where oneDNN can, fused with the residual sum and the ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from detrscope.ops.kernels.native_precision import onednn_convolves

Named = Literal["none", "relu", "relu6", "silu"]
ACTIVATIONS: dict[Named, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
}
# Name and scalars of an activation in oneDNN.
ONEDNN_ACTIVATIONS: dict[Named, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
    "silu": ("swish", []),
}


@dataclass(frozen=True)
class Floor:
    """Activation max(x, low): a ReLU with scale and shift, where these are multiplied into the convolution before."""

    low: float

    def __call__(self, x: Tensor) -> Tensor:
        """Activate a tensor of any shape."""
        return x.clamp(min=self.low)


Activation = Named | Floor


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Activate a tensor of any shape."""
    return activation(x) if isinstance(activation, Floor) else ACTIVATIONS[activation](x)


def convolution_and_norm(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module,
    activation: Activation = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Compute `activation(norm(conv(x)) + residual)` in as few passes over memory as possible.

    A norm with fixed statistics is an affine map, so it is multiplied into the weights: the same numbers up to
    rounding, and no extra tensor kept for the backward pass. Without gradients on a CPU, sum and activation are fused
    too.

    Args:
        x: [B, C, H, W].
        conv: the convolution.
        norm: its norm; nn.Identity where it is folded already.
        activation: what follows.
        residual: [B, C', H', W'] added before the activation; may be overwritten.

    Returns:
        [B, C', H', W'].
    """
    if _gathers_statistics(norm):
        y = norm(_convolved(x, conv, conv.weight, conv.bias))
    else:
        weight, bias = _folded(conv, norm)
        if convolution_may_use_onednn(x, weight, residual):
            return _fused(x, conv, weight, bias, activation, residual)
        y = _convolved(x, conv, weight, bias)
    return activate(y if residual is None else y + residual, activation)


SIMD_CHANNELS = 16  # float32 numbers in an AVX-512 register


def _convolved(x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with the settings of `conv` and other weights.

    A strided 1 x 1 convolution reads every other pixel. oneDNN's AVX-512 gradient of it writes out of bounds where
    channels do not fill a register (torch 2.14), so these pixels are sliced first: the same numbers.
    """
    if conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels % SIMD_CHANNELS:
        rows, columns = conv.stride
        return F.conv2d(x[..., ::rows, ::columns], weight, bias, 1, conv.padding, conv.dilation, conv.groups)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


SMALL_MAP = 512  # cells


class PackedConv2d(nn.Conv2d):
    """A convolution for inference that caches its weight in oneDNN's layout for small maps of the last size.

    Without the cache every call reorders the weight, a sixth of a small map's convolution. For a large map the
    reordering costs next to nothing and a second copy of the weights would cost memory.
    """

    packed: tuple[tuple[object, ...], Tensor] | None = None

    def packed_for(self, x: Tensor) -> Tensor:
        """Return the weight for maps `x` [B, C, H, W] of this size; any layout gives the same numbers."""
        if x.shape[-2] * x.shape[-1] > SMALL_MAP:
            return self.weight
        version = (
            0 if self.weight.is_inference() else self.weight._version
        )  # inference tensors have no version
        key = (x.shape, x.dtype, self.weight.data_ptr(), version)
        if self.packed is None or self.packed[0] != key:
            geometry = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
            reordered = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *geometry, list(x.shape))
            self.packed = (key, reordered)
        return self.packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": None}  # oneDNN's layout can be neither copied nor pickled


def fold_norm_into_convolution(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """Return a convolution that equals `norm(conv(x))` in evaluation (inference only)."""
    if isinstance(norm, nn.Identity):
        return conv
    with torch.no_grad():
        weight, bias = _folded(conv, norm)
    folded = PackedConv2d.__new__(PackedConv2d)
    folded.__dict__ = {**conv.__dict__, "_parameters": {}}  # the same settings, its own weights
    folded.weight = nn.Parameter(weight, requires_grad=False)
    folded.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return folded


def _gathers_statistics(norm: nn.Module) -> bool:
    """Return whether the norm depends on this batch; otherwise it is an affine map per channel."""
    if isinstance(norm, nn.Identity | FrozenBatchNorm2d):
        return False
    return not isinstance(norm, nn.BatchNorm2d) or norm.training


def _folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return weight [C', C, kh, kw] and bias [C'] of the convolution with its affine norm multiplied in."""
    if isinstance(norm, nn.Identity):
        return conv.weight, conv.bias
    gamma, beta, mean, variance = (
        norm.get_parameter(name) if name in norm._parameters else norm.get_buffer(name)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    assert isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d)
    scale = gamma * (variance + norm.eps).rsqrt()  # [C']
    shift = beta - mean * scale  # [C']
    bias = shift if conv.bias is None else conv.bias * scale + shift
    return conv.weight * scale.view(-1, 1, 1, 1), bias


def convolution_may_use_onednn(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> bool:
    """Return whether oneDNN's fused convolutions apply now: on a CPU, without gradients or export."""
    return (
        may_leave_torch(x)
        and not convolution_is_learning(x, weight, residual)
        and onednn_convolves(convolution_dtype(x))
    )


def convolution_is_learning(*tensors: Tensor | None) -> bool:
    """Return whether any of these needs a gradient."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def may_leave_torch(x: Tensor) -> bool:
    """Return whether private operators of oneDNN may be called on a tensor now, gradients aside."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return False  # an exported graph holds standard operators only
    return x.device.type == "cpu" and bool(torch.backends.mkldnn.enabled)


def convolution_dtype(x: Tensor) -> torch.dtype:
    """Return the type that an operator on `x` computes in, autocast included."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def autocast_convolution(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Convert tensors to the CPU's autocast type; None stays None."""
    return tuple(x if x is None else x.to(torch.get_autocast_dtype("cpu")) for x in tensors)


def _fused(
    x: Tensor,
    conv: nn.Conv2d,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    residual: Tensor | None,
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        x, weight, bias, residual = autocast_convolution(x, weight, bias, residual)
    elif isinstance(conv, PackedConv2d):
        weight = conv.packed_for(x)
    geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
    if residual is None:
        unary = (
            ("hardtanh", [activation.low, math.inf])
            if isinstance(activation, Floor)
            else ONEDNN_ACTIVATIONS[activation]
        )
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, *unary, "")
        return y
    in_place = residual.is_contiguous(memory_format=torch.channels_last)  # which oneDNN needs for the sum
    if not in_place or activation not in ("none", "relu"):
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, "none", [], "") + residual
        return activate(y, activation)
    # The sum overwrites the residual, which is not read again: no new map is allocated.
    y = torch.ops.mkldnn._convolution_pointwise_.binary(
        residual, x, weight, bias, *geometry, "add", 1.0, "relu" if activation == "relu" else None, [], ""
    )
    return y
