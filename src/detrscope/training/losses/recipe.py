"""Build the matcher and the loss terms from the training settings and the model's scoring."""

from __future__ import annotations

from detrscope.core.model_card import Scoring
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import (
    CrossEntropy,
    FocalLoss,
    IouAwareLoss,
    MatchabilityLoss,
    MatchingAwareLoss,
    VarifocalLoss,
)
from detrscope.training.losses.criterion import LossTerm, SetCriterion
from detrscope.training.losses.distributions import Distillation, FineGrainedLocalization
from detrscope.training.losses.mask_points import PointCrossEntropy, PointDice
from detrscope.training.losses.masks import MaskDice, MaskFocal, MaskTerm
from detrscope.training.mask_points import MaskCost
from detrscope.training.matcher import FocalCost, Matcher, SoftmaxCost
from detrscope.training.train_config import LossConfig, TrainConfig

SIGMOID_TERMS: dict[str, type[FocalLoss | IouAwareLoss | MatchabilityLoss | VarifocalLoss]] = {
    "focal": FocalLoss,
    "iou-aware": IouAwareLoss,
    "matchability": MatchabilityLoss,
    "varifocal": VarifocalLoss,
}


def make_criterion(config: TrainConfig, scoring: Scoring) -> SetCriterion:
    """Make the set loss of a training run."""
    matcher, terms = make_matcher(config, scoring), make_terms(config.loss, scoring)
    return SetCriterion(matcher, terms, scoring, config.loss.union, make_mask_terms(config.loss))


def make_matcher(config: TrainConfig, scoring: Scoring) -> Matcher:
    """Make the matcher of a training run; its class cost suits the scoring."""
    class_cost = FocalCost() if scoring == "sigmoid" else SoftmaxCost()
    cost = config.cost
    masks = MaskCost(cost.mask, cost.dice) if cost.mask or cost.dice else None
    return Matcher(class_cost, cost.classes, cost.box, cost.giou, masks)


def make_terms(config: LossConfig, scoring: Scoring) -> tuple[LossTerm, ...]:
    """Return the terms of the loss; the class term suits the scoring."""
    class_term: LossTerm = CrossEntropy(weight=config.classes, no_object=config.no_object)
    if scoring == "sigmoid" and config.sigmoid == "mal":
        class_term = MatchingAwareLoss(weight=config.classes, gamma=config.mal_gamma)
    elif scoring == "sigmoid":
        class_term = SIGMOID_TERMS[config.sigmoid](weight=config.classes)
    edges: list[LossTerm] = []
    if config.fgl:
        edges.append(FineGrainedLocalization(weight=config.fgl))
    if config.ddf:
        edges.append(Distillation(weight=config.ddf))
    points = PointCrossEntropy(weight=config.mask), PointDice(weight=config.dice)
    return class_term, BoxL1(weight=config.box), BoxGIoU(weight=config.giou), *edges, *points


def make_mask_terms(config: LossConfig) -> tuple[MaskTerm, ...]:
    """Return the terms of the loss of whole masks, for models that predict any; those of points are `make_terms`'."""
    return MaskFocal(weight=config.mask), MaskDice(weight=config.dice)
