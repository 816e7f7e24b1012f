"""The truth of pictures that are looked at, from a dataset that has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detrscope.console import log
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.open_dataset import read_dataset
from detrscope.data.validation_log import ValidationLog
from detrscope.recording.probe_images import AnnotatedImage, probe_images
from detrscope.trace_interface import Trace


class GroundTruthIndex:
    """Boxes and masks of pictures, found by their files.

    Args:
        source: of the dataset, such as coco:DIR or an annotation file.
        split: of a dataset that has splits.

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
        """The same look with what is known of its picture.

        Raises:
            UserError: the dataset has no such picture, or one of another size.
        """
        probe = self._probe(trace.source, trace.classes)
        height, width = probe.image.shape[-2:]
        g = trace.geometry
        if (height, width) != (g.height, g.width):
            raise UserError(
                f"{trace.source}: has {g.width} x {g.height} pixels, and {width} x {height} in {self.source}"
            )
        return replace(trace, targets=probe.targets, regions=probe.overview)

    def _probe(self, source: str, classes: ClassTable) -> AnnotatedImage:
        path = Path(source)
        found = self._by_path.get(path.resolve(), [])
        if not found and len(found := self._by_name.get(path.name, [])) == 1:
            log.info("%s: its ground truth is that of the image of the same name in %s", source, self.source)
        if len(found) != 1:
            what = f"{len(found)} pictures of this name" if found else "no such picture"
            raise UserError(f"{source or 'a picture in memory'}: {self.source} has {what}; check the split")
        return probe_images(self._dataset.subset(found), classes)[0]
