"""timm's ImageNet weights of ResNet-D: the same network computes the same, and is downloaded where there is none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from detrscope.checkpoints import resnet_d_weights
from detrscope.checkpoints.load import load_backbone_checkpoint
from detrscope.core.errors import UserError
from detrscope.families import build

timm = pytest.importorskip("timm", reason="timm is an extra")


@pytest.mark.parametrize(("variant", "name"), [("rtdetr-r18", "resnet18d"), ("rtdetr-r50", "resnet50d")])
def test_features_equal_timm(variant: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, features_only=True, out_indices=(2, 3, 4)).eval()
    whole = timm.create_model(name)
    for key, tensor in whole.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    theirs.load_state_dict(whole.state_dict(), strict=False)
    model = build(variant, {}, 3).eval()
    report = load_backbone_checkpoint(model, str(tmp_path / "weights.pth"))
    tensors = [key for key in model.backbone.body.state_dict() if not key.endswith("num_batches_tracked")]
    assert report.loaded >= len(tensors)
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        for mine, other in zip(model.backbone(images), theirs(images), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4 * float(other.abs().max()), rtol=0)


def test_weights_are_taken_from_the_cache_by_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path))
    torch.save(timm.create_model("resnet18d").state_dict(), tmp_path / "whole.pth")
    digits = hashlib.sha256((tmp_path / "whole.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "whole.pth").rename(tmp_path / f"resnet18d_ra2-{digits}.pth")
    monkeypatch.setitem(resnet_d_weights.FILES, "resnet18", f"resnet18d_ra2-{digits}.pth")
    model = build("rtdetr-r18", {}, 3)
    assert load_backbone_checkpoint(model, "imagenet").source == f"resnet18d_ra2-{digits}.pth"


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet50d").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match="does not fit the backbone"):
        load_backbone_checkpoint(build("rtdetr-r18", {}, 3), str(tmp_path / "weights.pth"))
