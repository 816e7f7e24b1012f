"""Names that the authors of D-FINE and DEIMv2 give to our tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from detrscope.checkpoints.native import Loaded
from tests.support.tiny_models import padded_batch

AUTHORS = (
    (r"backbone\.body\.(.*)\.scale", r"backbone.\1.lab.scale"),
    (r"backbone\.body\.(.*)\.shift", r"backbone.\1.lab.bias"),
    (r"backbone\.body\.(.*)\.norm\.(\w+)", r"backbone.\1.bn.\2"),
    (r"backbone\.body\.(.*)", r"backbone.\1"),
    (r"neck\.projections\.(.*)", r"encoder.input_proj.\1"),
    (r"encoder\.fusion\.laterals\.(.*)", r"encoder.lateral_convs.\1"),
    (r"encoder\.fusion\.strided\.(\d)\.0\.(.*)", r"encoder.downsample_convs.\1.0.cv1.\2"),
    (r"encoder\.fusion\.strided\.(\d)\.1\.(.*)", r"encoder.downsample_convs.\1.0.cv2.\2"),
    (r"queries\.label_embedding\.weight", "decoder.denoising_class_embed.weight"),
    (r"queries\.projection\.(.*)", r"decoder.enc_output.proj.\1"),
    (r"queries\.projection_norm\.(.*)", r"decoder.enc_output.norm.\1"),
    (r"queries\.class_head\.(.*)", r"decoder.enc_score_head.\1"),
    (r"queries\.box_head\.(.*)", r"decoder.enc_bbox_head.\1"),
    (r"decoder\.position\.(.*)", r"decoder.query_pos_head.\1"),
    (r"heads\.start_head\.(.*)", r"decoder.pre_bbox_head.\1"),
    (r"heads\.box_heads\.(.*)", r"decoder.dec_bbox_head.\1"),
    (r"heads\.class_heads\.(.*)", r"decoder.dec_score_head.\1"),
    (r"heads\.quality_heads\.(\d)\.(.*)", r"decoder.decoder.lqe_layers.\1.reg_conf.\2"),
    (r"heads\.scale", "decoder.reg_scale"),
    (r"heads\.reach", "decoder.up"),
)


def outputs_of(loaded: Loaded) -> Tensor:
    with torch.no_grad():
        return loaded.model(padded_batch()).logits
