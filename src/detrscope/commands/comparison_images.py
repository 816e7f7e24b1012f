"""The images of a comparison: those of a dataset with their objects, and those that the user named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_convert

from detrscope.core.download import is_url
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.dataset import Annotation, DetectionDataset, TransformedDataset
from detrscope.data.image_reader import ImageSource, read_image
from detrscope.data.transforms import EvalTransform
from detrscope.evaluation.object_matching import LabelledBoxes
from detrscope.inference.media.sources import MediaSource, UniqueNames, expand_media_sources


@dataclass(frozen=True)
class ComparedImage:
    """One image of a comparison.

    Attributes:
        name: name in results.
        stem: unique name for files made from it.
        read: returns its upright pixels, uint8 [3, H, W].
        counted: whether it counts in the tables; an image that is only drawn does not.
        named: whether the user named it.
        image_id: id in the dataset, -1 for an image that is not in one.
        objects: boxes in pixels, with indices into the classes of the dataset as labels.
        crowds: the same for crowds.
        object_names: class names of the objects.
        has_objects: whether its objects are known, if there are any.
    """

    name: str
    stem: str
    read: Callable[[], Tensor]
    counted: bool
    named: bool
    image_id: int
    objects: LabelledBoxes
    crowds: LabelledBoxes
    object_names: tuple[str, ...] = ()
    has_objects: bool = False


NOTHING = LabelledBoxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def images_to_compare(
    sources: Sequence[ImageSource], dataset: DetectionDataset | None
) -> list[ComparedImage]:
    """Return the images of the dataset, then those of `sources` that are not among them.

    Raises:
        UserError: there is no image, a source cannot be read, or is a video.
    """
    stems = UniqueNames()
    media = expand_media_sources(sources)
    for source in media:
        if source.is_video:
            raise UserError(f"{source.name}: is a video; compare takes images")
    if dataset is None:
        if not media:
            raise UserError("compare: expected images or a dataset as data, found neither")
        return [_of_source(source, stems, counted=True) for source in media]
    if not len(dataset):
        raise UserError(f"{dataset.name}: no images to compare on")
    named = {_resolved(source): source for source in media}
    images = _of_dataset(dataset, set(named), stems)
    known = {image.path.resolve() for image in dataset.images}
    others = [source for path, source in named.items() if path not in known]
    return [*images, *(_of_source(source, stems, counted=False) for source in others)]


def _resolved(source: MediaSource) -> Path | int:
    """Return the path of a file, and something unique for images in memory and URLs."""
    content = source.content
    return Path(content).expanduser().resolve() if isinstance(content, str | Path) else id(source)


def _of_source(source: MediaSource, stems: UniqueNames, *, counted: bool) -> ComparedImage:
    """Return an image that the user named, read once: errors come before any work, and a URL is read once."""
    content = source.content
    pixels = read_image(content)
    on_disk = isinstance(content, str | Path) and not is_url(content)
    read = partial(read_image, content) if on_disk else lambda: pixels  # files are not kept in memory
    return ComparedImage(source.name, stems.unused(source.stem), read, counted, True, -1, NOTHING, NOTHING)


def _of_dataset(dataset: DetectionDataset, named: set[Path | int], stems: UniqueNames) -> list[ComparedImage]:
    samples = TransformedDataset(
        dataset, EvalTransform(Preprocessing())
    )  # for its pixels, checked for their size
    images = []
    for index, info in enumerate(dataset.images):
        rows = dataset.annotations[info.id]
        objects = [a for a in rows if not a.iscrowd]
        images.append(
            ComparedImage(
                name=info.path.name,
                stem=stems.unused(info.path.stem),
                read=partial(samples.pixels, index),
                counted=True,
                named=info.path.resolve() in named,
                image_id=info.id,
                objects=_labelled(objects, dataset),
                crowds=_labelled([a for a in rows if a.iscrowd], dataset),
                object_names=tuple(dataset.classes.name_of(a.category_id) for a in objects),
                has_objects=True,
            )
        )
    return images


def _labelled(annotations: Sequence[Annotation], dataset: DetectionDataset) -> LabelledBoxes:
    boxes = torch.tensor([a.bbox_xywh for a in annotations], dtype=torch.float64).reshape(-1, 4)
    labels = [dataset.classes.index_of(a.category_id) for a in annotations]
    return LabelledBoxes(box_convert(boxes, "xywh", "xyxy").float(), torch.tensor(labels, dtype=torch.int64))
