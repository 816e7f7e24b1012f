"""timm's weights of HGNetV2: the same network computes the same; a smaller one takes what fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detrscope.blocks.backbone import build_backbone
from detrscope.checkpoints.load import load_backbone_checkpoint
from detrscope.core.errors import UserError
from detrscope.families import build

timm = pytest.importorskip("timm", reason="timm is an extra")


def weights(name: str, path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    whole = timm.create_model(name)
    for key, tensor in whole.state_dict().items():
        if key.endswith(("running_mean", "lab.bias")):
            tensor.normal_(0, 0.1)
        if key.endswith(("running_var", "lab.scale")):
            tensor.uniform_(0.5, 1.5)
    torch.save(whole.state_dict(), path)
    theirs: torch.nn.Module = timm.create_model(name, features_only=True, out_indices=(1, 2, 3)).eval()
    theirs.load_state_dict(
        {f"{k.replace('stages.', 'stages_', 1)}": v for k, v in whole.state_dict().items() if "head" not in k}
    )
    return theirs


@pytest.mark.parametrize(("variant", "name"), [("dfine-s", "hgnetv2_b0"), ("dfine-l", "hgnetv2_b4")])
def test_features_equal_timm(variant: str, name: str, tmp_path: Path) -> None:
    theirs = weights(name, tmp_path / "weights.pth")
    model = build(variant, {"encoder": {"layers": 0}, "decoder": {"layers": 1}}, 3).eval()
    report = load_backbone_checkpoint(model, str(tmp_path / "weights.pth"))
    assert not report.notes
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        for mine, other in zip(model.backbone(images), theirs(images), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4 * float(other.abs().max()), rtol=0)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    weights("hgnetv2_b0", tmp_path / "weights.pth")
    model = build("dfine-m", {"encoder": {"layers": 0}, "decoder": {"layers": 1}}, 3)
    with pytest.raises(UserError, match="does not fit the backbone"):
        load_backbone_checkpoint(model, str(tmp_path / "weights.pth"))


def test_a_stage_that_a_backbone_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="hgnetv2_atto: has 3 stages, stage 4 is requested"):
        build_backbone("hgnetv2_atto", stages=(3, 4), dilate_last=False, norm="frozen")
