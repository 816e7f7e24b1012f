"""Convolution with its norm folded in and, where oneDNN can, with the sum and the ReLU in the same pass over memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from detrscope.ops.kernels.machine import onednn_convolves


def conv_norm(
    x: Tensor, conv: nn.Conv2d, norm: nn.Module, *, relu: bool, residual: Tensor | None = None
) -> Tensor:
    """`relu(norm(conv(x)) + residual)` in as few passes as the moment allows.

    A norm that does not gather statistics is an affine map, so it is multiplied into the weights: the same numbers up
    to rounding, no extra tensor kept for the backward pass. Where no gradient is wanted on a CPU, sum and ReLU are
    fused as well.

    Args:
        x: [B, C, H, W].
        conv: the convolution.
        norm: its norm; nn.Identity where it was folded before.
        relu: whether a ReLU follows.
        residual: [B, C', H', W'] added before the ReLU; may be written over.

    Returns:
        [B, C', H', W'].
    """
    if _gathers_statistics(norm):
        y = norm(_convolved(x, conv, conv.weight, conv.bias))
        y = y if residual is None else y + residual
        return F.relu(y) if relu else y
    weight, bias = _folded(conv, norm)
    if may_use_onednn(x, weight, residual):
        return _fused(x, conv, weight, bias, relu, residual)
    y = _convolved(x, conv, weight, bias)
    y = y if residual is None else y + residual
    return F.relu(y) if relu else y


SIMD_CHANNELS = 16  # float32 numbers in an AVX-512 register


def _convolved(x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution with weights of its shape.

    A strided 1 x 1 convolution is one of every other pixel. oneDNN's AVX-512 gradient of it writes out of bounds where
    channels do not fill a register (torch 2.14), so such pixels are picked out first: the same numbers.
    """
    if conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels % SIMD_CHANNELS:
        rows, columns = conv.stride
        return F.conv2d(x[..., ::rows, ::columns], weight, bias, 1, conv.padding, conv.dilation, conv.groups)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


FEW = 512  # cells of a small map


class PackedConv2d(nn.Conv2d):
    """A convolution for inference that keeps its weight as oneDNN wants it for small maps of the size seen last.

    Otherwise every call lays the weight out anew, which costs a sixth of a small map's convolution; of a large map's it
    costs next to nothing, and a second copy of all weights would.
    """

    packed: tuple[tuple[object, ...], Tensor] | None = None

    def packed_for(self, x: Tensor) -> Tensor:
        """The weight for maps of this size; any layout gives the same numbers."""
        if x.shape[-2] * x.shape[-1] > FEW:
            return self.weight
        version = 0 if self.weight.is_inference() else self.weight._version  # none is kept in inference mode
        key = (x.shape, x.dtype, self.weight.data_ptr(), version)
        if self.packed is None or self.packed[0] != key:
            place = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
            laid_out = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *place, list(x.shape))
            self.packed = (key, laid_out)
        return self.packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "packed": None}  # oneDNN's layout can be neither copied nor pickled


def fold(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """A convolution that does for good what `norm(conv(x))` does in evaluation (inference only)."""
    if isinstance(norm, nn.Identity):
        return conv
    with torch.no_grad():
        weight, bias = _folded(conv, norm)
    folded = PackedConv2d.__new__(PackedConv2d)
    folded.__dict__ = {**conv.__dict__, "_parameters": {}}  # the same settings, weights of its own
    folded.weight = nn.Parameter(weight, requires_grad=False)
    folded.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return folded


def _gathers_statistics(norm: nn.Module) -> bool:
    """Whether the norm depends on this batch; if not, it is an affine map per channel."""
    if isinstance(norm, nn.Identity | FrozenBatchNorm2d):
        return False
    return not isinstance(norm, nn.BatchNorm2d) or norm.training


def _folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [C', C, kh, kw] and bias [C'] of the convolution with its affine norm multiplied in."""
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


def may_use_onednn(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> bool:
    """Whether oneDNN's fused convolutions can stand in for torch's now: on a CPU, nothing learning or exported."""
    return may_leave_torch(x) and not is_learning(x, weight, residual) and onednn_convolves(computed_in(x))


def is_learning(*tensors: Tensor | None) -> bool:
    """Whether a gradient of any of these is wanted."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def may_leave_torch(x: Tensor) -> bool:
    """Whether an operator that is not torch's own can be called on a tensor now, gradients aside."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False  # an exported graph holds standard operators only
    return x.device.type == "cpu" and bool(torch.backends.mkldnn.enabled)


def computed_in(x: Tensor) -> torch.dtype:
    """The type that an operator on `x` computes in, autocast included."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _fused(
    x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, relu: bool, residual: Tensor | None
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        residual = None if residual is None else residual.to(dtype)
    elif isinstance(conv, PackedConv2d):
        weight = conv.packed_for(x)
    shape = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
    if residual is None:
        unary = "relu" if relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, unary, [], "")
    if not residual.is_contiguous(memory_format=torch.channels_last):  # oneDNN would leave the sum to torch
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "none", [], "") + residual
        return F.relu(y) if relu else y
    # The sum is written over the residual, which nobody reads again: no new map is allocated.
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        residual, x, weight, bias, *shape, "add", 1.0, "relu" if relu else None, [], ""
    )
