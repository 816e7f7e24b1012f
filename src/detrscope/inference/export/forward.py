"""The forward pass as a graph of tensors: what is exported, with attention or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.edits import GraphEdit
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord
from detrscope.core.types import Batch, Outputs
from detrscope.inference.graph_interface import LEVELS, MASKS, PROPOSALS, SHAPE, GraphSite, edit_inputs


class Sample(NamedTuple):
    """A batch to run a graph with while it is exported, and what the model says of it."""

    images: Tensor  # [2, 3, H, W]
    specs: tuple[GraphSite, ...]
    any_class: bool  # whether logit 0 of the proposals stands for an object of any class


def make_sample(model: DetectionTransformer, height: int, width: int) -> Sample:
    """Run a model once and describe its attention sites.

    Args:
        model: in evaluation mode, in float32, on the CPU.
        height: of the images of the sample.
        width: the same.
    """
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    probe = Probe(values=False)
    with torch.no_grad():
        outputs: Outputs = model(Batch(images), probe=probe)
    specs = tuple(GraphSite.of_record(site, probe.records[site]) for site in model.sites)
    return Sample(images, specs, outputs.proposals is not None and outputs.proposals.any_class)


def _predictions(outputs: Outputs) -> dict[str, Tensor]:
    masks = {} if outputs.masks is None else {MASKS: outputs.masks.logits}
    return {"logits": outputs.logits, "boxes_cxcywh": outputs.boxes_cxcywh, **masks}


class PlainForward(nn.Module):
    """Images [B, 3, H, W] to logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4], and masks [B, Q, h, w] of a mask head."""

    def __init__(self, model: DetectionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the predictions by name, of images [B, 3, H, W]; see the class for their shapes."""
        outputs: Outputs = self.model(Batch(images))
        return _predictions(outputs)


class ForwardWithAttention(nn.Module):
    """The same with the edits of every site as inputs and its record as outputs; see `graph_interface`."""

    def __init__(self, model: DetectionTransformer, specs: Sequence[GraphSite]) -> None:
        super().__init__()
        self.model = model
        self.specs = tuple(specs)

    def forward(self, images: Tensor, edits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return predictions, sizes of maps, shapes and records by name.

        Args:
            images: [B, 3, H, W].
            edits: inputs by name, as `graph_interface.edit_inputs` gives them.
        """
        graph_edits = {spec.site: _edit_of(spec, edits) for spec in self.specs}
        probe = Probe(values=False, graph_edits=graph_edits)
        outputs: Outputs = self.model(Batch(images), probe=probe)
        result = _predictions(outputs)
        sizes = [side for level in probe.levels for side in level]
        result[LEVELS] = _numbers(images, sizes).view(-1, 2)
        result |= {SHAPE + name: _numbers(images, shape) for name, shape in probe.shapes.items()}
        if (proposals := outputs.proposals) is not None:
            for name in ("logits", "boxes_cxcywh", "centres"):
                result[PROPOSALS + name] = getattr(proposals, name)
        for spec in self.specs:
            record = probe.records[spec.site]
            result |= {f"{spec.site}.{name}": getattr(record, name) for name in spec.record_parts()}
            if isinstance(record, DenseRecord) and record.levels is not None:
                sizes = [side for level in record.levels for side in level]
                result[f"{spec.site}.{LEVELS}"] = _numbers(images, sizes).view(-1, 2)
        return result

    def neutral_inputs(self) -> dict[str, Tensor]:
        """Return the inputs that change nothing."""
        return edit_inputs({spec.site: spec.neutral_edit() for spec in self.specs})


def _edit_of(spec: GraphSite, edits: Mapping[str, Tensor]) -> GraphEdit:
    names = spec.neutral_edit().tensors()
    return GraphEdit(spec.site, **{name: edits[f"{spec.site}.{name}"] for name in names})


def _numbers(like: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return sizes as a tensor [n] int64; a list of them would be fixed in an exported graph."""
    return torch.stack([like.new_full((), number, dtype=torch.int64) for number in numbers])
