"""RF-DETR with masks equals transformers' with the same weights: masks of every layer, losses, all three layouts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.spread_weights import spread_weights
from safetensors.torch import load_file
from torch import Tensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.load import load_model
from detrscope.core.errors import UserError
from detrscope.core.types import Batch, MaskFactors, Outputs, Target
from detrscope.families import VARIANTS
from detrscope.training.losses.recipe import make_criterion
from detrscope.training.train_config import CostConfig, LossConfig, TrainConfig
from tests.support.group_detr_parity import assert_parts_equal, parts_of, run_theirs

SIZES = tuple(name for name in VARIANTS if name.startswith("rfdetr-seg"))


def hub_model(variant: str, **more: Any) -> Any:
    """RfDetrForInstanceSegmentation with 80 classes and random weights."""
    import transformers

    config = VARIANTS[variant].config
    body = config.backbone
    torch.manual_seed(0)
    settings = {
        "num_labels": 80,
        "num_queries": config.queries,
        "decoder_layers": config.decoder.layers,
        "decoder_n_points": 2,
        "dropout": 0.0,
        "attn_implementation": "sdpa",
        **more,
    }
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        num_register_tokens=0,
        patch_size=body.patch,
        num_windows=body.windows,
        out_indices=[3, 6, 9, 12],
        image_size=body.patch * body.grid,
    )
    model = transformers.RfDetrForInstanceSegmentation(
        transformers.RfDetrConfig(backbone_config=backbone, **settings)
    ).eval()
    spread_weights(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.model.model.backbone.backbone.named_parameters():
            if "lambda1" in name:
                parameter.normal_(0.5, 0.1, generator=generator)
            elif name.startswith("embeddings.") and "projection" not in name:
                parameter.normal_(0.0, 0.5, generator=generator)
        for head in (model.model.bbox_embed, *model.model.model.enc_out_bbox_embed):
            head.layers[-1].weight.mul_(0.3)  # sizes are multiplied by exponentials of what a head gives
        model.model.model.reference_point_embed.weight.mul_(0.1)
    return model


def load_both(variant: str, folder: Path, **more: Any) -> tuple[DetectionTransformer, Any]:
    theirs = hub_model(variant, **more)
    theirs.save_pretrained(folder)
    loaded = load_model(folder)
    assert loaded.card.has_masks and loaded.card.variant == ("rf_detr" if more else variant)
    return loaded.model, theirs


def images(variant: str = "rfdetr-seg-nano") -> Tensor:
    """Two square images with more tokens than queries."""
    side = 12 if VARIANTS[variant].config.queries == 100 else 18
    patches = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(patches, scale_factor=12, mode="bicubic") * 2


class Detector:
    """The detector inside their model, with the masks of all layers that the last call made."""

    def __init__(self, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.theirs = theirs
        self.masks: list[Tensor] = []
        self.inner: Any = None
        self.class_embed, self.bbox_embed = theirs.model.class_embed, theirs.model.bbox_embed
        head = theirs.segmentation_head

        def kept(features: Tensor, states: Any, size: Any, skip_blocks: bool = False) -> Any:
            made = head(features, states, size, skip_blocks)
            self.masks.append(made if skip_blocks else torch.stack(made))
            return made

        monkeypatch.setattr(theirs, "segmentation_head", kept)
        theirs.model.model.register_forward_hook(lambda module, inputs, made: setattr(self, "inner", made))

    def __call__(self, images: Tensor, pixel_mask: Tensor | None) -> Any:
        self.masks.clear()
        outputs = self.theirs(images, pixel_mask=pixel_mask)
        # What the comparison of detectors reads; the model with masks does not return it.
        scores = self.theirs.model.predict_encoder_class_logits(self.inner.enc_outputs_class)
        outputs.enc_outputs_class = scores
        outputs.enc_outputs_coord_logits = self.inner.enc_outputs_coord_logits
        return outputs


def whole_masks(factors: MaskFactors) -> Tensor:
    """All masks that factors stand for: [N, B, Q, h, w]."""
    rows = [
        torch.einsum("bqd,bdhw->bqhw", q, p) for q, p in zip(factors.queries, factors.pixels, strict=True)
    ]
    return torch.stack(rows) + factors.bias


def run_ours(model: DetectionTransformer, batch: Batch) -> tuple[Outputs, list[Tensor]]:
    """Outputs, and the masks of the proposals and of every layer."""
    head = model.mask_head
    assert head is not None
    head.train()  # so that it gives the factors of all layers; the rest of the model stays as it is
    outputs = model(batch)
    assert outputs.proposals is not None and outputs.masks is None
    assert outputs.mask_factors is not None and outputs.proposals.mask_factors is not None
    return outputs, [whole_masks(outputs.proposals.mask_factors)[0], whole_masks(outputs.mask_factors)]


@pytest.mark.parametrize("variant", SIZES)
def test_every_layer_equals_transformers(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits, boxes and masks: to 1e-6 of the scale in float64; in float32 to 1e-4, or to the rounding of theirs."""
    if variant != "rfdetr-seg-nano" and not os.environ.get("DETRSCOPE_ALL_VARIANTS"):
        pytest.skip("the smallest size runs; set DETRSCOPE_ALL_VARIANTS=1 for the others")
    model, theirs = load_both(variant, tmp_path)
    detector = Detector(theirs, monkeypatch)
    batch = Batch(images(variant))
    exact_batch = Batch(batch.images.double())
    with torch.no_grad():
        outputs, masks = run_ours(model, batch)
        ours = [*parts_of(outputs, model, batch), *masks]
        single = [*run_theirs(detector, outputs, batch, monkeypatch), *detector.masks]
        theirs.double()
        truth = [*run_theirs(detector, outputs, exact_batch, monkeypatch), *detector.masks]
        outputs, masks = run_ours(model.double(), exact_batch)
        double = [*parts_of(outputs, model, exact_batch), *masks]
        selected = [*run_theirs(detector, outputs, exact_batch, monkeypatch), *detector.masks]
        predicted = model.eval()(exact_batch).masks
    assert predicted is not None
    torch.testing.assert_close(predicted.logits, double[-1][-1], atol=1e-9, rtol=1e-9)
    assert len(ours) == len(single) == 7
    last = truth[-1][-1]
    assert last.std(1).median() > 0.1 and last.flatten(2).std(-1).median() > 0.1, "could not fail"
    assert_parts_equal(ours, single, truth, double, selected)


def test_all_layouts_give_the_same_model(tmp_path: Path) -> None:
    model, theirs = load_both("rfdetr-seg-nano", tmp_path)
    theirs.save_pretrained(tmp_path / "renamed", save_original_format=False)
    assert "segmentation_bias" in load_file(tmp_path / "renamed" / "model.safetensors")
    renamed = load_model(tmp_path / "renamed")
    assert renamed.card.variant == "rfdetr-seg-nano" and renamed.card.preprocessing.box == (312, 312)
    state = load_file(tmp_path / "model.safetensors")
    assert "segmentation_head.bias" in state
    torch.save({"model": state}, tmp_path / "rf-detr-seg-n-ft.pth")
    authors = load_model(tmp_path / "rf-detr-seg-n-ft.pth")
    assert authors.card.variant == "rfdetr-seg-nano" and authors.card.preprocessing.box == (312, 312)
    assert authors.card.config["projector_epsilon"] == 1e-6 and authors.card.top == 100
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, renamed.model.state_dict()[name]), name
        assert torch.equal(tensor, authors.model.state_dict()[name]), name


@pytest.fixture(scope="module")
def authors_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tensor]]:
    """A file of the authors, as transformers writes it."""
    folder = tmp_path_factory.mktemp("seg")
    hub_model("rfdetr-seg-nano", group_detr=1).save_pretrained(folder)
    yield load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segmentation_head.query_features_proj.bias": None}, "missing mask_head.query_projection.bias"),
        ({"segmentation_head.blocks.9.norm.bias": torch.zeros(256)}, r"left over mask_head.blocks.9"),
        ({"segmentation_head.extra.bias": torch.zeros(1)}, "unknown"),
        ({"segmentation_head.bias": torch.zeros(2)}, r"mask_head.bias is \[2\], expected \[1\]"),
    ],
)
def test_damaged_mask_heads_are_refused(
    authors_state: dict[str, Tensor], change: dict[str, Tensor | None], reason: str, tmp_path: Path
) -> None:
    state = {key: value for key, value in {**authors_state, **change}.items() if value is not None}
    torch.save({"model": state}, tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=reason):
        load_model(tmp_path / "damaged.pth")


def test_losses_equal_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every term of every layer and of the proposals, over all groups, to 1e-5; matched with masks, too."""
    from transformers.loss import loss_rf_detr

    model, theirs = load_both("rfdetr-seg-nano", tmp_path, group_detr=2, num_queries=20)
    model, theirs = model.double().train(), theirs.double().train()
    batch = Batch(images().double())
    generator = torch.Generator().manual_seed(3)
    boxes = torch.rand(4, 4, generator=generator).double() * 0.4 + 0.2
    masks = torch.rand(4, 12, 12, generator=generator).repeat_interleave(12, 1).repeat_interleave(12, 2) > 0.5
    targets = [Target(torch.arange(4), boxes, masks), Target(torch.tensor([7]), boxes[:1] * 0.9, ~masks[:1])]
    config = TrainConfig(
        cost=CostConfig(classes=2.0, mask=5.0, dice=5.0),
        loss=LossConfig(classes=5.0, sigmoid="iou-aware", mask=5.0, dice=5.0),
    )
    theirs.config.class_loss_coefficient = 5.0
    drawn = (
        torch.rand(40_000, 2, generator=generator).double() * 0.94 + 0.03
    )  # theirs is 0 outside of the map

    def same_points(rows: int, count: int, *_: int, device: object = None) -> Tensor:
        return drawn[:count].expand(rows, -1, -1)

    points = (batch.images.shape[2] // 4) * (batch.images.shape[3] // 4) // 16

    def their_points(rows: int, count: int, *_: int, device: object = None) -> Tensor:
        # Their matcher takes the number of points from the number of queries instead of the mask's pixels.
        return same_points(rows, points if rows == 1 else count)

    monkeypatch.setattr(torch, "rand", same_points)
    losses = make_criterion(config, "sigmoid")(model(batch), targets)
    monkeypatch.setattr(torch, "rand", their_points)
    sample = loss_rf_detr.sample_point
    monkeypatch.setattr(loss_rf_detr, "sample_point", lambda x, at, **more: sample(x.double(), at, **more))
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh, "masks": t.masks} for t in targets]
    with torch.no_grad():
        result = theirs(batch.images, labels=labels)
    names = {"loss_mask": "loss_mask_ce", "loss_dice": "loss_mask_dice", "loss_box": "loss_bbox"}
    for ours, other in names.items():
        for mine, suffix in (("", ""), ("_0", "_0"), ("_2", "_2"), ("_proposals", "_enc")):
            torch.testing.assert_close(
                losses.terms[f"{ours}{mine}"] / 5, result.loss_dict[f"{other}{suffix}"], rtol=1e-5, atol=1e-7
            )
    torch.testing.assert_close(losses.total.detach(), result.loss, rtol=1e-5, atol=0)
    assert len(losses.terms) == 5 * (4 + 1)
    losses.total.backward()
    head = model.mask_head
    assert head is not None and all(p.grad is not None and p.grad.any() for p in head.parameters())
