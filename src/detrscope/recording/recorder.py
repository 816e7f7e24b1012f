"""Record snapshots of probe images while a model trains, and read them back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.native import Loaded
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.probe import Probe
from detrscope.core.snapshot import CROSS, ProbeSnapshot, Recording, SnapshotStep
from detrscope.core.snapshot_file import load_snapshot, save_snapshot, snapshot_path, snapshot_paths
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_file import load_trace, save_trace
from detrscope.core.types import Outputs
from detrscope.data.dataset import DetectionDataset
from detrscope.inference.torch_engine import TorchEngine
from detrscope.inference.tracing import trace_image
from detrscope.recording.part_attention import PartMeter, part_attention_row
from detrscope.recording.probe_images import AnnotatedImage, open_probe_images
from detrscope.training.config import RunConfig
from detrscope.training.losses.recipe import make_matcher
from detrscope.training.plan import TrainPlan
from detrscope.training.run_folder import SNAPSHOTS, TRACES, RunFolder
from detrscope.training.train_config import TrainConfig

TRACE = ".trace"


class SnapshotRecorder:
    """Recorder that writes one small file for all probe images each time it is called.

    Args:
        folder: run folder.
        images: probe images, at least one.
        card: card of the model in training.
        config: settings of the training: the costs of matching, and `recording`.
    """

    def __init__(
        self, folder: RunFolder, images: Sequence[AnnotatedImage], card: ModelCard, config: TrainConfig
    ) -> None:
        self.folder = folder
        self.images = tuple(images)
        self.card = card
        self.config = config.recording
        self._matcher = make_matcher(config, card.scoring)
        self._meter = PartMeter(images)
        self._channels: dict[str, tuple[int, ...]] = {}  # of features, by site
        self._started: float | None = None  # time of the first snapshot of this process
        self._seconds = 0.0

    def __call__(self, model: nn.Module, step: int, plan: TrainPlan) -> None:
        """Record the model as it is after `step` steps."""
        assert isinstance(model, DetectionTransformer)
        start = time.perf_counter()
        if self._started is None:
            self._channels = _recorded_channels(self.folder / SNAPSHOTS)
        snapshots, parts, full_traces = {}, [], []
        epoch = step / plan.steps_per_epoch
        is_full = self._is_full(step, plan)
        features = "*" if self.config.features else ()
        with _in_evaluation(model):
            for image in self.images:
                probe = Probe(None if is_full else CROSS, features=features, values=is_full)
                trace = trace_image(
                    TorchEngine(model),
                    self.card,
                    image.image,
                    probe,
                    orientation=image.orientation,
                    targets=image.targets,
                    source=str(image.path),
                )
                if is_full:
                    full_traces.append(self._save_full(image, trace, step, epoch))
                matched = self._matched(trace)
                snapshots[image.name] = self._snapshot(trace, list(matched.values()))
                parts += self._meter.measure(image.name, trace, matched)
                path = self.folder / SNAPSHOTS / f"{image.name}{TRACE}"
                if not path.is_file():
                    save_trace(replace(trace, records={}, features={}, original=None), path)
        path = save_snapshot(SnapshotStep(step, epoch, snapshots), self.folder / SNAPSHOTS)
        if parts:
            self.folder.add_attention_row(part_attention_row(step, epoch, parts))
        if self._started is None:
            self._started = start
            self._log_size(path, full_traces, step, plan)
        self._seconds += time.perf_counter() - start
        if step >= plan.total_steps:
            share = self._seconds / (time.perf_counter() - self._started)
            log.info("recording snapshots took %.1f s, %.1f%% of the time", self._seconds, 100 * share)

    def _is_full(self, step: int, plan: TrainPlan) -> bool:
        """Return whether full traces are stored: at the first snapshot, every `traces` snapshots, and the last."""
        if not self.config.traces:
            return False
        number = step // (self.config.every or plan.steps_per_epoch)
        return number % self.config.traces == 0 or step >= plan.total_steps

    def _save_full(self, image: AnnotatedImage, trace: TraceData, step: int, epoch: float) -> Path:
        notes = {"epoch": round(epoch, 2), "step": step}
        path = self.folder / TRACES / f"{image.name}-step_{step:07d}{TRACE}"
        return save_trace(replace(trace, features={}, regions=image.regions, notes=notes), path)

    def _matched(self, trace: TraceData) -> dict[int, int]:
        """Return the query that training would match with each object, in the last layer."""
        assert trace.targets is not None
        last = Outputs(trace.logits[-1:, None], trace.boxes_cxcywh[-1:, None])
        matches = self._matcher(last, [trace.targets])
        return dict(zip(matches.targets[0].tolist(), matches.queries[0].tolist(), strict=True))

    def _snapshot(self, trace: TraceData, matched: Sequence[int]) -> ProbeSnapshot:
        """Return the trace reduced to the matched queries, then the best-scoring."""
        if not self._channels:
            self._channels = {site: _strongest(trace, site, self.config.features) for site in trace.features}
        best = trace.scores().amax(1).argsort(descending=True, stable=True).tolist()
        queries = list(dict.fromkeys([*matched, *best]))[: max(len(matched), self.config.queries)]
        return ProbeSnapshot.of_trace(trace, torch.tensor(sorted(queries)), self._channels)

    def _log_size(self, path: Path, full_traces: Sequence[Path], step: int, plan: TrainPlan) -> None:
        """Log how much disk the snapshots of the run will take, estimated from the first."""
        later = [s for s in range(step + 1, plan.total_steps + 1) if plan.snapshot_due(s, self.config.every)]
        size = path.stat().st_size / 1e6
        log.info(
            "%d probe images x %d snapshots: about %.3g MB in %s (%.3g MB a snapshot)",
            len(self.images),
            1 + len(later),
            size * (1 + len(later)),
            path.parent,
            size,
        )
        if full_traces:
            count = 1 + sum(self._is_full(s, plan) for s in later)
            size = sum(path.stat().st_size for path in full_traces) / 1e6
            folder = full_traces[0].parent
            log.info("%d of them with full traces: about %.3g MB in %s", count, size * count, folder)


def make_recorder(
    config: RunConfig,
    loaded: Loaded,
    folder: RunFolder,
    training: DetectionDataset,
    val: DetectionDataset | None,
) -> SnapshotRecorder | None:
    """Return the recorder of a run, or None where recording is off.

    Raises:
        UserError: see `open_probe_images`; or features are requested from a backbone without feature sites.
    """
    images = open_probe_images(config, loaded.card.classes, training, val)
    if images and config.train.recording.features and not loaded.model.feature_sites:
        raise UserError("train.recording.features: this backbone does not give the maps of its convolutions")
    return SnapshotRecorder(folder, images, loaded.card, config.train) if images else None


def load_recording(run: str | Path) -> Recording:
    """Read the snapshots and metrics of a run folder.

    Raises:
        UserError: no snapshots, or they cannot be read.
    """
    folder = RunFolder(run)
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder; expected a run folder")
    snapshots = folder / SNAPSHOTS
    images = {path.stem: load_trace(path) for path in sorted(snapshots.glob(f"*{TRACE}"))}
    steps = [load_snapshot(path) for path in snapshot_paths(snapshots)]
    if not steps or not images:
        raise UserError(f"{folder.path}: contains no snapshots; train with probe_images=DIR")
    return Recording(
        folder.path.resolve().name,
        {name: images[name] for name in steps[0].snapshots if name in images},
        steps,
        folder.rows(),
        folder.attention_rows(),
    )


def load_recording_at(folder: RunFolder, step: int) -> Recording | None:
    """Read the snapshot of one step alone; None where none was taken at it.

    Raises:
        UserError: it cannot be read.
    """
    path = snapshot_path(folder / SNAPSHOTS, step)
    if not path.is_file():
        return None
    snapshot = load_snapshot(path)
    traces = {name: folder / SNAPSHOTS / f"{name}{TRACE}" for name in snapshot.snapshots}
    shown = {name: load_trace(path) for name, path in traces.items() if path.is_file()}
    return Recording(folder.path.resolve().name, shown, [snapshot], [], []) if shown else None


def _strongest(trace: TraceData, site: str, count: int) -> tuple[int, ...]:
    """Return the channels with the greatest mean square."""
    strength = trace.features[site].float().square().mean((1, 2))  # [C]
    return tuple(strength.topk(min(count, len(strength))).indices.tolist())


def _recorded_channels(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the channels that earlier snapshots of this run have stored, by site."""
    for path in snapshot_paths(folder)[:1]:
        for snapshot in load_snapshot(path).snapshots.values():
            return {site: maps.channels for site, maps in snapshot.features.items()}
    return {}


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode within the `with`, and back into its own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
