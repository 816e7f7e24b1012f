"""Which images can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from detrscope.console import log, progress
from detrscope.core.errors import UserError
from detrscope.data.dataset import DetectionDataset, ImageInfo
from detrscope.data.decode_limit import PixelGate, usable_cores
from detrscope.data.image_reader import read_image

T = TypeVar("T")


def without_unreadable(dataset: DetectionDataset) -> DetectionDataset:
    """The dataset without the images that cannot be decoded; a warning counts and names them."""

    def reason(image: ImageInfo) -> str | None:
        try:
            read_image(image.path)
        except UserError as error:
            return str(error)
        return None

    reasons = list(on_all_cores(reason, dataset.images, f"reading {dataset.name}"))
    bad = [text for text in reasons if text]
    if not bad:
        return dataset
    shown = "; ".join(bad[:3]) + ("; ..." if len(bad) > 3 else "")
    log.warning("%s: %d of %d images skipped: %s", dataset.name, len(bad), len(dataset), shown)
    good = [image.id for image, text in zip(dataset.images, reasons, strict=True) if text is None]
    return dataset.subset(good)


def on_all_cores(work: Callable[[ImageInfo], T], images: Iterable[ImageInfo], title: str) -> Iterator[T]:
    """Results in order, with a progress bar. Threads do: Pillow decodes outside the interpreter's lock."""
    images = list(images)
    gate = PixelGate()

    def admitted(image: ImageInfo) -> T:
        with gate.room_for(image.width * image.height):
            return work(image)

    with ThreadPoolExecutor(usable_cores()) as pool, progress() as bar:
        task = bar.add_task(title, total=len(images))
        for result in pool.map(admitted, images):
            bar.advance(task)
            yield result
