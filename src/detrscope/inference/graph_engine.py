"""Base of engines that run an exported graph: images, edits and records are its inputs and outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.edits import Bias
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.types import Masks, Outputs
from detrscope.inference.graph_edits import edits_by_site, needs_map_sizes
from detrscope.inference.graph_interface import IMAGES, MapSizes, edit_inputs, fill_probe, outputs_of
from detrscope.inference.graph_metadata import GraphMetadata

Arrays = Mapping[str, np.ndarray]


class GraphEngine(ABC):
    """An exported graph; see `Engine` for the interface.

    Without a probe, a graph without records and edits runs: attention costs nothing when nobody looks.

    Args:
        metadata: metadata of the file.
        device: device that computes.
        precision: precision that it computes in.
    """

    name: str

    def __init__(self, metadata: GraphMetadata, device: str, precision: str) -> None:
        self.metadata = metadata
        self.device = device
        self.precision = precision
        self.sites = tuple(spec.site for spec in metadata.sites)
        self.feature_sites: tuple[str, ...] = ()
        self._map_sizes: dict[tuple[int, int], MapSizes] = {}  # by height and width of the image

    @abstractmethod
    def run(self, inputs: Arrays, *, attention: bool) -> dict[str, np.ndarray]:
        """Run the graph and return its outputs, which stay valid.

        Args:
            inputs: `images` [B, 3, H, W] float32 and, with attention, all edits.
            attention: whether records are returned too.
        """

    def predict(self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        """Return the predictions of images [B, 3, H, W], and record the requested sites; see `Engine.predict`.

        Graphs take no padding: padded images run one by one, each without its padding.
        """
        images = images.float()
        if padding is not None and bool(padding.any()):
            if probe is not None:
                raise UserError(f"engine {self.name}: cannot record a padded batch; give one image at a time")
            return _joined(
                [self.predict(_without_padding(*pair)[None]) for pair in zip(images, padding, strict=True)]
            )
        if probe is None:
            return self._outputs(self._run(images, {}, attention=False))
        self._check(probe)
        if any(
            isinstance(edit, Bias) and edit.scores.dim() == 4 and len(edit.scores) > 1 for edit in probe.edits
        ):
            return self._predict_apart(images, probe)
        edits = edits_by_site(self.metadata.sites, probe, self._sizes_for(images, probe), self.name)
        tensors = self._run(images, edit_inputs(edits), attention=True)
        fill_probe(probe, tensors, self.metadata.sites, edits)
        return self._outputs(tensors)

    def _predict_apart(self, images: Tensor, probe: Probe) -> Outputs:
        """Run each image of a batch with its own part of the biases; nothing is recorded.

        Raises:
            UserError: records are requested too.
        """
        if probe.sites is None or probe.sites:
            raise UserError(
                f"engine {self.name}: a bias for each image of a batch cannot be recorded; sites=[]"
            )
        parts = []
        for index, image in enumerate(images):
            edits = [
                replace(edit, scores=edit.scores[index : index + 1])
                if isinstance(edit, Bias) and edit.scores.dim() == 4 and len(edit.scores) > 1
                else edit
                for edit in probe.edits
            ]
            parts.append(
                self.predict(image[None], probe=Probe([], edits, values=False, geometry=probe.geometry))
            )
        return _joined(parts)

    def _run(self, images: Tensor, edits: Mapping[str, Tensor], *, attention: bool) -> dict[str, Tensor]:
        inputs = {IMAGES: images, **edits}
        arrays = {name: x.contiguous().numpy() for name, x in inputs.items()}
        return {name: torch.from_numpy(x) for name, x in self.run(arrays, attention=attention).items()}

    def _outputs(self, tensors: Mapping[str, Tensor]) -> Outputs:
        return outputs_of(tensors, self.metadata.any_class)

    def _check(self, probe: Probe) -> None:
        """Check that this graph can serve a probe.

        Raises:
            UserError: it needs gradients, values, or attention that the file does not have.
        """
        probe.check(self.sites, self.feature_sites)
        wanted = (
            "gradients" if probe.explain else "attention values" if probe.values and probe.sites != () else ""
        )
        if wanted:
            raise UserError(
                f"engine {self.name}: exported models give no {wanted}; load the checkpoint with engine='torch'"
            )
        if not self.metadata.attention:
            raise UserError(
                f"engine {self.name}: this file is exported without attention; export it again with attention"
                " (with_attention=True)"
            )

    def _sizes_for(self, images: Tensor, probe: Probe) -> MapSizes | None:
        """Return the sizes that the edits of a probe need, found by a run without edits; None where they need none."""
        if not needs_map_sizes(probe.edits):
            return None
        size = (images.shape[2], images.shape[3])
        if size not in self._map_sizes:
            neutral = edits_by_site(self.metadata.sites, Probe(()), None, self.name)
            tensors = self._run(images[:1], edit_inputs(neutral), attention=True)
            self._map_sizes[size] = MapSizes.of_outputs(tensors, self.metadata.sites)
        return self._map_sizes[size]


def _without_padding(image: Tensor, padding: Tensor) -> Tensor:
    """Cut the padding at the right and lower side off an image [3, H, W]."""
    inside = ~padding
    height, width = int(inside.any(1).sum()), int(inside.any(0).sum())
    return image[:, :height, :width]


def _joined(parts: list[Outputs]) -> Outputs:
    """Return the predictions of a batch, of those of its images."""
    first = parts[0]
    logits = torch.cat([part.logits for part in parts], dim=1)
    boxes = torch.cat([part.boxes_cxcywh for part in parts], dim=1)
    return replace(first, logits=logits, boxes_cxcywh=boxes, proposals=None, masks=_joined_masks(parts))


def _joined_masks(parts: list[Outputs]) -> Masks | None:
    """Return the masks of a batch; those of smaller images are padded at the right and below with their border."""
    masks = [part.masks.logits for part in parts if part.masks is not None]
    if not masks:
        return None
    height, width = (max(x.shape[axis] for x in masks) for axis in (2, 3))
    padded = [F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate") for x in masks]
    extent = [[x.shape[2] / height, x.shape[3] / width] for x in masks for _ in range(len(x))]
    return Masks(torch.cat(padded), torch.tensor(extent))
