"""torchvision's Faster R-CNN: its settings, its variants, and how it is built.

It is no detection transformer: it does not follow the path of `blocks/path.py` and has no attention to record. It is
there to be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import PositiveInt
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from detrscope.config import config_to_tree, require_config, setting, settings
from detrscope.core.classes import ClassTable
from detrscope.core.model_card import ModelCard
from detrscope.core.preprocessing import Preprocessing

FAMILY = "faster_rcnn"
POOLED = 7  # side of the features of a proposal, as in torchvision's models
ANCHORS = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
Body = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet50-v2", "mobilenet-v3-large"]


@settings
class FasterRcnnConfig:
    """Settings of a Faster R-CNN that its weights do not tell, or that its card tells before they are read."""

    backbone: Body = setting(
        "resnet50", "network below the feature pyramid; -v2 has torchvision's newer heads"
    )
    stages: tuple[int, ...] = setting((1, 2, 3, 4), "ResNet stages with a map in the pyramid", min_length=1)
    anchors: tuple[PositiveInt, ...] = setting(ANCHORS, "side of the anchors of each level in pixels")
    representation: PositiveInt = setting(1024, "width of the box head")
    proposals: PositiveInt = setting(1000, "most proposals of an image, before and after the RPN's NMS")
    proposal_threshold: float = setting(0.0, "minimum objectness of a proposal", ge=0, le=1)
    norm_eps: float | None = setting(
        None, "epsilon of the backbone's batch norms; null is torchvision's", ge=0
    )

    def __post_init__(self) -> None:
        valid = self.backbone == "mobilenet-v3-large" or len(self.anchors) == len(self.stages) + 1
        require_config(
            valid, "anchors", self.anchors, "a size for every stage and one for the level above them"
        )
        plain = self.backbone in ("resnet18", "resnet34", "resnet50", "resnet101")
        default = (self.stages, self.anchors, self.representation) == ((1, 2, 3, 4), ANCHORS, 1024)
        require_config(
            plain or default, "backbone", self.backbone, "the default stages, anchors and representation"
        )


@dataclass(frozen=True)
class FasterRcnnVariant:
    """A model name, its settings, and torchvision's name of it where torchvision has COCO weights."""

    name: str
    config: FasterRcnnConfig
    preprocessing: Preprocessing
    torchvision_name: str | None = None

    def published_url(self) -> str | None:
        """Return the address of the COCO weights; their file's name ends in the first digits of its SHA-256."""
        return get_model_weights(self.torchvision_name)["COCO_V1"].url if self.torchvision_name else None


SIDES = Preprocessing(800, 1333)
_MOBILE = FasterRcnnConfig(backbone="mobilenet-v3-large", proposal_threshold=0.05)
FASTER_RCNNS: dict[str, FasterRcnnVariant] = {
    v.name: v
    for v in (
        FasterRcnnVariant("fasterrcnn-r18-fpn", FasterRcnnConfig(backbone="resnet18"), SIDES),
        FasterRcnnVariant("fasterrcnn-r50-fpn", FasterRcnnConfig(), SIDES, "fasterrcnn_resnet50_fpn"),
        FasterRcnnVariant(
            "fasterrcnn-r50-fpn-v2",
            FasterRcnnConfig(backbone="resnet50-v2"),
            SIDES,
            "fasterrcnn_resnet50_fpn_v2",
        ),
        FasterRcnnVariant(
            "fasterrcnn-mobilenet-v3-large-fpn", _MOBILE, SIDES, "fasterrcnn_mobilenet_v3_large_fpn"
        ),
        FasterRcnnVariant(
            "fasterrcnn-mobilenet-v3-large-320-fpn",
            replace(_MOBILE, proposals=150),
            Preprocessing(320, 640),
            "fasterrcnn_mobilenet_v3_large_320_fpn",
        ),
    )
}


def build_faster_rcnn(config: FasterRcnnConfig, classes: int, preprocessing: Preprocessing) -> FasterRCNN:
    """Build a model with random weights and trainable norms. It resizes and normalises images of 0..1 itself.

    Args:
        config: the settings.
        classes: number of classes without background, which is torchvision's label 0.
        preprocessing: sides, mean and deviation of the model's own transform.
    """
    common: dict[str, Any] = {
        "min_size": preprocessing.short_side,
        "max_size": preprocessing.long_side,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "rpn_pre_nms_top_n_train": 2 * config.proposals,  # torchvision's ratio
        "rpn_post_nms_top_n_train": 2 * config.proposals,
        "rpn_pre_nms_top_n_test": config.proposals,
        "rpn_post_nms_top_n_test": config.proposals,
        "rpn_score_thresh": config.proposal_threshold,
    }
    whole = {
        "resnet50-v2": "fasterrcnn_resnet50_fpn_v2",
        "mobilenet-v3-large": "fasterrcnn_mobilenet_v3_large_fpn",
    }
    if config.backbone in whole:
        model: FasterRCNN = get_model(
            whole[config.backbone], weights=None, weights_backbone=None, num_classes=classes + 1, **common
        )
    else:
        levels = len(config.stages)
        backbone = resnet_fpn_backbone(
            backbone_name=config.backbone,
            weights=None,
            norm_layer=nn.BatchNorm2d,
            trainable_layers=5,
            returned_layers=list(config.stages),
        )
        model = FasterRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator(
                tuple((size,) for size in config.anchors), (RATIOS,) * len(config.anchors)
            ),
            box_roi_pool=MultiScaleRoIAlign(
                [str(level) for level in range(levels)], POOLED, sampling_ratio=2
            ),
            box_head=TwoMLPHead(backbone.out_channels * POOLED**2, config.representation),
            box_predictor=FastRCNNPredictor(config.representation, classes + 1),
            **common,
        )
    if config.norm_eps is not None:
        for module in model.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = config.norm_eps
    return model


def faster_rcnn_card(
    variant: str, config: FasterRcnnConfig, classes: ClassTable, preprocessing: Preprocessing, source: str
) -> ModelCard:
    """Return the card of a Faster R-CNN. Label l of torchvision is class index l - 1; label 0 is background."""
    return ModelCard(FAMILY, variant, config_to_tree(config), classes, preprocessing, "softmax", source)
