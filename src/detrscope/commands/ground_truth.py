"""Ground truth of traced images, from a dataset that contains them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.data.open_dataset import read_dataset
from detrscope.data.validation_log import ValidationLog
from detrscope.recording.probe_images import annotated_probe_images
from detrscope.trace_interface import Trace


class GroundTruthIndex:
    """Annotations of a dataset, found by the paths of its images.

    Args:
        source: dataset, such as coco:DIR or an annotation file.
        split: split of the dataset.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, source: str | Path, split: str) -> None:
        self.source = str(source)
        self._dataset = read_dataset(source, split, ValidationLog(split), details=True)
        self._by_path = {image.path.resolve(): [image.id] for image in self._dataset.images}
        self._by_name: dict[str, list[int]] = {}
        for image in self._dataset.images:
            self._by_name.setdefault(image.path.name, []).append(image.id)

    def add_to(self, trace: Trace) -> Trace:
        """Return the trace with the annotated boxes and regions of its image.

        Raises:
            UserError: the dataset has no such image, or one of another size.
        """
        image_id = self._image_id(trace.source)
        annotated = annotated_probe_images(self._dataset.subset([image_id]), trace.classes)[0]
        height, width = annotated.image.shape[-2:]
        g = trace.geometry
        if (height, width) != (g.height, g.width):
            raise UserError(
                f"{trace.source}: has {g.width} x {g.height} pixels, but {width} x {height} in {self.source}"
            )
        return replace(trace, targets=annotated.targets, regions=annotated.regions)

    def _image_id(self, source: str) -> int:
        path = Path(source)
        ids = self._by_path.get(path.resolve(), [])
        if not ids and len(ids := self._by_name.get(path.name, [])) == 1:
            log.info("%s: its ground truth is that of the image of the same name in %s", source, self.source)
        if len(ids) != 1:
            known = f"{len(ids)} images of this name" if ids else "no such image"
            raise UserError(f"{source or 'an image in memory'}: {self.source} has {known}; check the split")
        return ids[0]
