from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from detrscope.core.types import Outputs, Proposals, Target
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import CrossEntropy
from detrscope.training.losses.criterion import Losses, LossTerm, MatchedPredictions, SetCriterion
from detrscope.training.matcher import Matcher, SoftmaxCost

LAYERS, QUERIES, CLASSES = 4, 12, 7


TERMS: tuple[LossTerm, ...] = (CrossEntropy(), BoxL1(), BoxGIoU())


def criterion(*more: LossTerm) -> SetCriterion:
    return SetCriterion(Matcher(SoftmaxCost()), (*TERMS, *more), "softmax")


def made_up(*counts: int, seed: int = 0) -> tuple[Outputs, list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, len(counts), QUERIES)
    logits = torch.randn(*shape, CLASSES + 1, generator=generator) * 3
    boxes = torch.rand(*shape, 4, generator=generator) * 0.6 + 0.05
    targets = [
        Target(
            torch.randint(0, CLASSES, (m,), generator=generator),
            torch.rand(m, 4, generator=generator) * 0.6 + 0.05,
        )
        for m in counts
    ]
    return Outputs(logits.requires_grad_(), boxes.requires_grad_()), targets


def oracle(outputs: Outputs, targets: list[Target]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    config = SimpleNamespace(
        class_cost=1, bbox_cost=5, giou_cost=2, num_labels=CLASSES, eos_coefficient=0.1, auxiliary_loss=True,
        bbox_loss_coefficient=5, giou_loss_coefficient=2, decoder_layers=LAYERS,
    )  # fmt: skip
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
    logits, boxes = outputs.logits, outputs.boxes_cxcywh
    total, terms, _ = ForObjectDetectionLoss(
        logits[-1], labels, torch.device("cpu"), boxes[-1], config, outputs_class=logits, outputs_coord=boxes
    )
    return total, terms


@pytest.mark.parametrize(
    "counts", [(3, 0, 5), (1,), (14, 2)], ids=["an empty image", "one box", "too many boxes"]
)
def test_every_term_and_gradient_equals_transformers(counts: tuple[int, ...]) -> None:
    outputs, targets = made_up(*counts)
    ours = criterion()(outputs, targets)
    total, terms = oracle(outputs, targets)
    names = {"loss_class": ("loss_ce", 1), "loss_box": ("loss_bbox", 5), "loss_giou": ("loss_giou", 2)}
    assert len(ours.terms) == 3 * LAYERS
    for name, value in ours.terms.items():
        base = "_".join(name.split("_")[:2])
        theirs, weight = names[base]
        wanted = terms[theirs + name.removeprefix(base)].item() * weight
        assert float(value) == pytest.approx(wanted, rel=1e-5), name
    assert ours.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert float(ours.monitors["cardinality_error"]) == pytest.approx(float(terms["cardinality_error"]))
    leaves = [outputs.logits, outputs.boxes_cxcywh]
    for mine, wanted in zip(
        torch.autograd.grad(ours.total, leaves), torch.autograd.grad(total, leaves), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-7)


def test_terms_have_the_documented_names() -> None:
    losses = criterion()(*made_up(2))
    layers = [f"loss_{term}_{n}" for n in range(LAYERS - 1) for term in ("class", "box", "giou")]
    assert list(losses.terms) == ["loss_class", "loss_box", "loss_giou", *layers]
    assert float(sum(losses.terms.values())) == pytest.approx(float(losses.total.detach()), rel=1e-6)


@dataclass(frozen=True)
class CentreDistance:
    """A term of a family of its own: the distance of the centres of matched boxes."""

    name: str = "loss_centre"
    weight: float = 3.0

    def __call__(self, matched: MatchedPredictions) -> torch.Tensor:
        offset = matched.boxes_cxcywh[..., :2] - matched.target_boxes_cxcywh[..., :2]  # [N, P, 2]
        return offset.norm(dim=-1).sum(1) / matched.normalizers.boxes


def test_a_new_term_needs_no_change_of_the_criterion() -> None:
    outputs, targets = made_up(3, 0, 5)
    proposals = Proposals(outputs.logits[0], outputs.boxes_cxcywh[0], torch.rand(1, QUERIES, 2))
    outputs = replace(outputs, proposals=proposals)
    before, after = criterion()(outputs, targets), criterion(CentreDistance())(outputs, targets)
    names = {"loss_centre", "loss_centre_proposals", *(f"loss_centre_{n}" for n in range(LAYERS - 1))}
    assert set(after.terms) - set(before.terms) == names
    assert all(after.terms[name] == value for name, value in before.terms.items())
    added = sum(after.terms[name] for name in names)
    torch.testing.assert_close(after.total.detach(), before.total.detach() + added)
    matches = Matcher(SoftmaxCost())(outputs, targets)
    last = outputs.boxes_cxcywh[-1, matches.images, matches.queries[-1], :2]
    wanted = torch.cat([t.boxes_cxcywh for t in targets])[matches.targets[-1], :2]
    expected = 3 * (last - wanted).norm(dim=-1).sum() / 8
    torch.testing.assert_close(after.terms["loss_centre"], expected.detach())


def test_one_decoder_layer_has_no_auxiliary_terms() -> None:
    outputs, targets = made_up(2, 1)
    losses = criterion()(Outputs(outputs.logits[-1:], outputs.boxes_cxcywh[-1:]), targets)
    assert list(losses.terms) == ["loss_class", "loss_box", "loss_giou"]


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3)])
def test_images_without_boxes_give_a_finite_loss_with_gradients(counts: tuple[int, ...]) -> None:
    outputs, targets = made_up(*counts)
    losses = criterion()(outputs, targets)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert outputs.logits.grad is not None and outputs.logits.grad.abs().sum() > 0
    assert outputs.boxes_cxcywh.grad is not None and torch.isfinite(outputs.boxes_cxcywh.grad).all()
    if not any(counts):
        assert float(losses.terms["loss_box"]) == float(losses.terms["loss_giou"]) == 0
        assert outputs.boxes_cxcywh.grad.abs().sum() == 0
        assert torch.isnan(losses.monitors["matched_iou"])


def test_boxes_without_area_do_not_make_nan() -> None:
    outputs, targets = made_up(1)
    boxes = torch.zeros_like(outputs.boxes_cxcywh).requires_grad_()
    losses = criterion()(Outputs(outputs.logits, boxes), [Target(targets[0].labels, torch.zeros(1, 4))])
    losses.total.backward()
    assert torch.isfinite(losses.total) and boxes.grad is not None and torch.isfinite(boxes.grad).all()


def test_monitors_by_hand() -> None:
    logits = torch.full((1, 1, 3, 3), -5.0)
    logits[0, 0, 0, 0] = logits[0, 0, 1, 1] = logits[0, 0, 2, 2] = 5.0  # class 0, class 1, no object
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0], [0.5, 0.5, 0.1, 0.1]])[None, None]
    target = Target(
        torch.tensor([0, 0, 1]),
        torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1]]),
    )
    monitors = criterion()(Outputs(logits, boxes), [target]).monitors
    assert float(monitors["class_error"]) == pytest.approx(200 / 3)
    assert float(monitors["cardinality_error"]) == 1
    assert float(monitors["matched_iou"]) == pytest.approx((1 + 0.5 + 1) / 3)


def test_losses_of_parts_of_a_batch_add_up_to_the_loss_of_all() -> None:
    outputs, targets = made_up(3, 0, 5, 1)
    whole: Losses = criterion()(outputs, targets)
    counts = [len(t.labels) for t in targets]
    parts = [
        criterion()(
            Outputs(outputs.logits[:, i : i + 2], outputs.boxes_cxcywh[:, i : i + 2]),
            targets[i : i + 2],
            counts,
        )
        for i in (0, 2)
    ]
    for name, value in whole.terms.items():
        assert float(sum(part.terms[name] for part in parts)) == pytest.approx(float(value), rel=1e-5), name


def test_half_precision_outputs_are_computed_in_float32() -> None:
    outputs, targets = made_up(2, 3)
    losses = criterion()(Outputs(outputs.logits.bfloat16(), outputs.boxes_cxcywh.bfloat16()), targets)
    assert losses.total.dtype == torch.float32
