"""Losses of D-FINE and DEIM: every term of every layer equals transformers', with and without the union of pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.loss.loss_d_fine import DFineLoss
from transformers.loss.loss_deimv2 import Deimv2Loss

from detrscope.core.boxes import xyxy_to_cxcywh
from detrscope.core.types import EdgeDistributions, Outputs, Proposals, Target
from detrscope.ops.edge_distributions import boxes_from_edges, edge_steps
from detrscope.training.denoising import Denoising, Noise, make_denoising
from detrscope.training.losses.criterion import Losses, SetCriterion
from detrscope.training.losses.recipe import make_terms
from detrscope.training.matcher import FocalCost, Matcher, Matches, union_of
from detrscope.training.train_config import LossConfig

LAYERS, QUERIES, CLASSES, BINS = 3, 9, 4, 17
SCALE, REACH = torch.tensor([4.0]), torch.tensor([0.5])
NAMES = {"loss_class": ("loss_vfl", "loss_mal"), "loss_box": ("loss_bbox",), "loss_giou": ("loss_giou",)}
COUNTS = pytest.mark.parametrize("counts", [(3, 0, 4), (1,)], ids=["an empty image", "one box"])


def made_up(counts: tuple[int, ...], extra: int = 0, seed: int = 0) -> tuple[Outputs, list[Target]]:
    """Predictions of a model with distributions; `extra` denoising queries stand in front."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int) -> Tensor:
        corners = torch.rand(*shape, 4, generator=generator).view(*shape, 2, 2).sort(-2).values.flatten(-2)
        return xyxy_to_cxcywh(corners) * 0.8 + 0.1

    images, queries = len(counts), QUERIES + extra
    steps = edge_steps(BINS, SCALE, REACH)
    edges = torch.randn(LAYERS, images, queries, 4, BINS, generator=generator).requires_grad_()
    start = boxes(images, queries)
    predicted = boxes_from_edges(start, edges.softmax(-1) @ steps, SCALE)
    logits = torch.randn(LAYERS, images, queries, CLASSES, generator=generator).requires_grad_()
    distributions = EdgeDistributions(edges, start, torch.randn(images, queries, CLASSES), steps, SCALE)
    chosen = torch.stack([torch.randperm(20, generator=generator)[:QUERIES] for _ in counts])
    proposals = Proposals(
        torch.randn(images, 20, CLASSES), boxes(images, 20), boxes(1, 20)[..., :2], selected=chosen
    )
    targets = [Target(torch.randint(0, CLASSES, (m,), generator=generator), boxes(m)) for m in counts]
    return Outputs(logits, predicted, proposals, distributions), targets


def ours(
    outputs: Outputs, targets: list[Target], config: LossConfig, noised: Denoising | None = None
) -> Losses:
    terms = make_terms(config, "sigmoid")
    return SetCriterion(Matcher(FocalCost(), 2, 5, 2), terms, "sigmoid", config.union)(
        outputs, targets, denoising=noised
    )


def theirs(outputs: Outputs, targets: list[Target], kind: type[DFineLoss], union: bool) -> dict[str, Tensor]:
    """Terms by the published names: layers before the last are aux_0 ..., then start boxes and proposals."""
    config = SimpleNamespace(
        matcher_alpha=0.25, matcher_gamma=2.0, matcher_class_cost=2, matcher_bbox_cost=5, matcher_giou_cost=2,
        use_focal_loss=True, num_labels=CLASSES, weight_loss_vfl=1, weight_loss_bbox=5, weight_loss_giou=2,
        eos_coefficient=1e-4, focal_loss_alpha=0.75, focal_loss_gamma=2.0, auxiliary_loss=True, max_num_bins=BINS - 1,
        weight_loss_fgl=0.15, weight_loss_ddf=1.5, reg_scale=4.0, up=0.5, weight_loss_mal=1, mal_alpha=None,
        use_dense_one_to_one=union, decoder_layers=LAYERS,
    )  # fmt: skip
    layers = layers_of(outputs, slice(None))
    proposals = outputs.proposals
    assert proposals is not None and proposals.selected is not None
    index = proposals.selected[..., None]
    chosen = [
        x.gather(1, index.expand(-1, -1, x.shape[2])) for x in (proposals.logits, proposals.boxes_cxcywh)
    ]
    others = [*layers[:-1], layers[-1] | {"start": True}, {"logits": chosen[0], "pred_boxes": chosen[1]}]
    others[-2] = start_of(outputs)
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
    terms: dict[str, Tensor] = kind(config)({**layers[-1], "auxiliary_outputs": others}, labels)
    return terms


def layers_of(outputs: Outputs, queries: slice) -> list[dict[str, Any]]:
    assert outputs.distributions is not None
    d = outputs.distributions
    edges = d.logits.flatten(-2)[:, :, queries]
    return [
        {
            "logits": outputs.logits[n][:, queries],
            "pred_boxes": outputs.boxes_cxcywh[n][:, queries].clamp(0, 1),
            "pred_corners": edges[n],
            "ref_points": d.start_cxcywh[:, queries],
            "teacher_corners": edges[-1],
            "teacher_logits": outputs.logits[-1][:, queries],
        }
        for n in range(LAYERS)
    ]


def start_of(outputs: Outputs) -> dict[str, Any]:
    assert outputs.distributions is not None
    return {"logits": outputs.distributions.start_logits, "pred_boxes": outputs.distributions.start_cxcywh}


def assert_terms_are_equal(mine: Losses, other: dict[str, Tensor]) -> None:
    suffixes = {"": "", **{f"_{n}": f"_aux_{n}" for n in range(LAYERS - 1)}}
    suffixes |= {"_start": f"_aux_{LAYERS - 1}", "_proposals": f"_aux_{LAYERS}"}
    names = NAMES | {"loss_fgl": ("loss_fgl",), "loss_ddf": ("loss_ddf",)}
    compared = 0
    for name, candidates in names.items():
        for suffix, their_suffix in suffixes.items():
            wanted = [other[key] for c in candidates if (key := f"{c}{their_suffix}") in other]
            if (name + suffix in mine.terms) != bool(wanted):
                pytest.fail(f"{name}{suffix} is in one of both")
            if wanted:
                assert float(mine.terms[name + suffix]) == pytest.approx(
                    wanted[0].item(), rel=1e-5, abs=1e-6
                ), name + suffix
                compared += 1
    assert compared == 3 * (LAYERS + 2) + 2 * LAYERS
    assert mine.total.item() == pytest.approx(sum(value.item() for value in other.values()), rel=1e-5)


@COUNTS
def test_every_term_equals_transformers(counts: tuple[int, ...]) -> None:
    outputs, targets = made_up(counts)
    config = LossConfig(sigmoid="varifocal", fgl=0.15, ddf=1.5)
    mine, other = ours(outputs, targets, config), theirs(outputs, targets, DFineLoss, union=False)
    assert_terms_are_equal(mine, other)
    leaves = [outputs.logits, outputs.distributions.logits]  # type: ignore[union-attr]
    both = [
        torch.autograd.grad(total, leaves, retain_graph=True) for total in (mine.total, sum(other.values()))
    ]  # type: ignore[arg-type]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@COUNTS
def test_the_union_of_pairs_equals_transformers(counts: tuple[int, ...]) -> None:
    outputs, targets = made_up(counts)
    config = LossConfig(sigmoid="mal", mal_gamma=2.0, fgl=0.15, ddf=1.5, union=True)
    assert_terms_are_equal(ours(outputs, targets, config), theirs(outputs, targets, Deimv2Loss, union=True))


def test_denoising_queries_have_distributions_too() -> None:
    counts = (3, 2)
    targets = made_up(counts)[1]
    noised = make_denoising(targets, Noise(0, 1.0, 0.5, 12, negatives=True), CLASSES, [1, 2])
    assert noised is not None
    count = noised.labels.shape[1]
    outputs, _ = made_up(counts, count)
    config = LossConfig(sigmoid="varifocal", fgl=0.15, ddf=1.5)
    mine = ours(outputs, targets, config, noised)
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
    layers = layers_of(outputs, slice(count))
    dummy = SimpleNamespace(
        matcher_alpha=0.25, matcher_gamma=2.0, matcher_class_cost=2, matcher_bbox_cost=5, matcher_giou_cost=2,
        use_focal_loss=True, num_labels=CLASSES, weight_loss_vfl=1, weight_loss_bbox=5, weight_loss_giou=2,
        eos_coefficient=1e-4, focal_loss_alpha=0.75, focal_loss_gamma=2.0, auxiliary_loss=True, max_num_bins=BINS - 1,
        weight_loss_fgl=0.15, weight_loss_ddf=1.5, reg_scale=4.0, up=0.5, decoder_layers=LAYERS,
    )  # fmt: skip
    first = 0
    pairs = []
    for b, target in enumerate(targets):
        chosen = noised.images == b
        pairs.append((noised.queries[chosen], noised.targets[chosen] - first))
        first += len(target.labels)
    criterion = DFineLoss(dummy)
    boxes = sum(counts) * noised.groups
    padding = noised.padding
    total = dict.fromkeys(("loss_fgl", "loss_ddf", "loss_bbox"), 0.0)
    for layer in layers:
        for kind in ("local", "boxes"):
            for name, value in criterion.get_loss(kind, layer, labels, pairs, boxes).items():
                if name in total:
                    total[name] += value.item() * criterion.weight_dict[name]
    assert padding.any(), "the padding of a group counts as a query without a box"
    assert float(mine.terms["loss_fgl_denoising"]) == pytest.approx(total["loss_fgl"], rel=1e-5)
    assert float(mine.terms["loss_box_denoising"]) == pytest.approx(total["loss_bbox"], rel=1e-5)
    assert "loss_box_denoising_start" in mine.terms and "loss_fgl_denoising_start" not in mine.terms


def test_micro_batches_add_up_to_one_batch_but_for_the_distillation() -> None:
    outputs, targets = made_up((3, 4))
    config = LossConfig(sigmoid="varifocal", fgl=0.15)
    whole = ours(outputs, targets, config)
    parts = []
    for b in range(2):
        assert outputs.distributions is not None and outputs.proposals is not None
        d, p = outputs.distributions, outputs.proposals
        one = Outputs(
            outputs.logits[:, b : b + 1],
            outputs.boxes_cxcywh[:, b : b + 1],
            Proposals(
                p.logits[b : b + 1], p.boxes_cxcywh[b : b + 1], p.centres, selected=p.selected[b : b + 1]
            ),  # type: ignore[index]
            EdgeDistributions(
                d.logits[:, b : b + 1], d.start_cxcywh[b : b + 1], d.start_logits[b : b + 1], d.steps, d.scale
            ),
        )
        terms = make_terms(config, "sigmoid")
        parts.append(
            SetCriterion(Matcher(FocalCost(), 2, 5, 2), terms, "sigmoid")(one, targets[b : b + 1], (3, 4))
        )
    assert sum(p.total.item() for p in parts) == pytest.approx(whole.total.item(), rel=1e-5)


def test_a_query_keeps_the_box_that_it_is_matched_with_most_often() -> None:
    images = torch.tensor([0, 0, 1])
    queries = torch.tensor([[4, 2, 4], [4, 2, 4], [4, 3, 0]])
    targets = torch.tensor([[1, 0, 2], [0, 1, 2], [0, 1, 2]])
    union = union_of([Matches(images, queries, targets)], 5)
    found = set(zip(union.images.tolist(), union.queries[0].tolist(), union.targets[0].tolist(), strict=True))
    assert found == {(0, 4, 0), (0, 2, 0), (0, 3, 1), (1, 4, 2), (1, 0, 2)}
