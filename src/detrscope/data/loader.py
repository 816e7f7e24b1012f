"""Batches whose order and augmentation depend on seed, epoch and index only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from detrscope.core.errors import UserError
from detrscope.core.types import Batch, Target
from detrscope.data.batch_draw import BatchDraws, ImageKey
from detrscope.data.dataset import Sample, SampleInfo, TransformedDataset

Key = int | tuple[int, int] | ImageKey  # index, or (epoch seed, index) and what the batch drew


class FillerKey(NamedTuple):
    """Key of an image that only fills the batch of a process for which no image is left: it has no target."""

    epoch_seed: int
    image: int  # its index


Collated = tuple[Batch, list[Target], list[SampleInfo]]


def collate(samples: Sequence[Sample]) -> Collated:
    """Stack images of different sizes into one batch, padded with zeros at the right and the bottom.

    Args:
        samples: At least one sample, images float32 [3, H_i, W_i].

    Returns:
        The batch, images [B, 3, max H_i, max W_i], padding True at padding or None where there is none; the
        targets; the origin of each sample.
    """
    heights = [s.image.shape[1] for s in samples]
    widths = [s.image.shape[2] for s in samples]
    height, width = max(heights), max(widths)
    padded = min(heights) < height or min(widths) < width
    shape = (len(samples), 3, height, width)
    images = samples[0].image.new_zeros(shape) if padded else samples[0].image.new_empty(shape)
    padding = torch.ones(len(samples), height, width, dtype=torch.bool) if padded else None
    for i, (sample, h, w) in enumerate(zip(samples, heights, widths, strict=True)):
        images[i, :, :h, :w] = sample.image
        if padding is not None:
            padding[i, :h, :w] = False
    return Batch(images, padding), [s.target for s in samples], [s.info for s in samples]


@dataclass(eq=False)
class EpochBatches(Sampler[list[Key]]):
    """Keys of every batch of an epoch, for one of `world` processes, which together have every image exactly once.

    Batch n of all processes together is batch n of one process with `world` times the batch size. Shuffled (training):
    every process gets the same number of batches; one that has no image left for the last gets a filler.
    """

    length: int  # images of the dataset
    batch_size: int
    shuffle: bool
    seed: int
    rank: int
    world: int
    drop_last: bool
    epoch: int = 0
    skip: int = 0  # batches left out at the start
    draws: BatchDraws | None = None

    def __iter__(self) -> Iterator[list[Key]]:
        entropy = np.random.SeedSequence([self.seed, self.epoch]).generate_state(2, np.uint64)
        order = torch.arange(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(int(entropy[0]))
            order = order[torch.randperm(self.length, generator=generator)]
        seed = int(entropy[1])
        mine: list[int] = order[self.rank :: self.world].tolist()
        for batch in range(self.skip, len(self) + self.skip):
            taken = mine[batch * self.batch_size : (batch + 1) * self.batch_size]
            draw = self.draws and self.draws.of(self.seed, self.epoch, batch)
            keys: list[Key] = [ImageKey(seed, i, draw) if draw else (seed, i) for i in taken]
            yield keys or [FillerKey(seed, int(order[0]))]

    def __len__(self) -> int:
        share = len(range(self.rank, self.length, self.world))
        if (
            self.shuffle
        ):  # all processes take as many batches as the one with the least, or with the most images
            share = self.length // self.world if self.drop_last else -(-self.length // self.world)
        batches = share // self.batch_size if self.drop_last else -(-share // self.batch_size)
        return max(0, batches - self.skip)


class DetectionLoader:
    """Loader of batches; an unreadable image is a UserError, whichever process reads it.

    Args:
        dataset: Samples to read.
        batches: Keys of each batch.
        workers: Number of processes that read; 0 reads in this one.
    """

    def __init__(
        self, dataset: TransformedDataset, batches: EpochBatches | Sequence[list[Key]], workers: int
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.workers = workers
        self._loader = self._started()

    def _started(self) -> DataLoader[Any]:
        return DataLoader(
            _Guarded(self.dataset),
            batch_sampler=cast(Any, self.batches),  # torch's type admits no keys other than integers
            num_workers=self.workers,
            collate_fn=_collate_or_error,
            persistent_workers=self.workers > 0,
            # Its own generator: iterating must not draw from the global one, which dropout uses.
            generator=torch.Generator().manual_seed(0),
        )

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Set the next epoch, and how many of its batches were done before an interruption.

        Raises:
            TypeError: the loader was made from a fixed list of batches.
        """
        if not isinstance(self.batches, EpochBatches):
            raise TypeError("this loader was made from a fixed list of batches")
        self.batches.epoch = epoch
        self.batches.skip = skip

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Collated]:
        """Yield batch, targets and origins of the samples; no targets with a batch that only keeps step (`FillerKey`).

        Raises:
            UserError: an image cannot be read.
        """
        error = None
        for batch in self._loader:
            if isinstance(batch, UserError):
                error = str(batch)
                break
            yield batch
        if error is not None:
            # Frees the workers before raising; held by a traceback they would take seconds to end.
            self._loader = self._started()
            raise UserError(error)


def make_loader(
    dataset: TransformedDataset,
    batch_size: int,
    *,
    shuffle: bool,
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    draws: BatchDraws | None = None,
) -> DetectionLoader:
    """Return a loader whose order and augmentation depend on (seed, epoch, index) only, not on the workers.

    Call `loader.set_epoch(n)` before each epoch: a resumed epoch then equals the uninterrupted one.

    Args:
        dataset: Samples to read.
        batch_size: Images in a batch of one process.
        shuffle: Whether to draw a new order every epoch (training) or keep that of the dataset (evaluation).
        workers: Number of processes that read images; 0 reads them in this one.
        seed: Random seed of order and augmentation.
        rank: Rank of this process, from 0.
        world: Number of processes that share the dataset.
        drop_last: Whether to leave out a last batch that is not full.
        draws: What the images of a batch share.

    Raises:
        UserError: a dataset to shuffle is empty, or a number is out of range.
    """
    if batch_size < 1 or workers < 0 or seed < 0 or not 0 <= rank < world:
        raise UserError(
            f"batch size {batch_size}, {workers} workers, seed {seed}, process {rank} of {world}: "
            "expected a batch of 1 or more, the others 0 or more"
        )
    if shuffle and len(dataset) == 0:
        raise UserError(f"{dataset.name}: no images to train on")
    batches = EpochBatches(len(dataset), batch_size, shuffle, seed, rank, world, drop_last, draws=draws)
    return DetectionLoader(dataset, batches, workers)


class _Guarded(Dataset[Any]):
    """Dataset that returns a UserError as a value: raised in a worker it would arrive wrapped in a long traceback."""

    def __init__(self, dataset: TransformedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key | FillerKey) -> Sample | _Filler | UserError:
        try:
            sample = self.dataset[key]
        except UserError as error:
            return error
        return _Filler(sample) if isinstance(key, FillerKey) else sample


@dataclass(frozen=True)
class _Filler:
    """An image without a target."""

    sample: Sample


def _collate_or_error(samples: Sequence[Sample | _Filler | UserError]) -> Collated | UserError:
    error = next((s for s in samples if isinstance(s, UserError)), None)
    if error is not None:
        return error
    if isinstance(samples[0], _Filler):
        return collate([samples[0].sample])[0], [], []
    return collate([s for s in samples if isinstance(s, Sample)])
