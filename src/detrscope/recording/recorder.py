"""Training, watched: probe images are looked at again and again while the model learns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.load import Loaded
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.model_card import ModelCard
from detrscope.core.probe import Probe
from detrscope.core.snapshot import CROSS, ProbeSnapshot, Recording, SnapshotStep
from detrscope.core.snapshot_file import load_snapshot, save_snapshot, snapshot_paths
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_file import load_trace, save_trace
from detrscope.core.types import Batch, Outputs
from detrscope.data.dataset import DetectionDataset
from detrscope.recording.part_attention import PartMeter, attention_row
from detrscope.recording.probe_images import AnnotatedImage, open_probe_images
from detrscope.training.config import RunConfig, TrainConfig
from detrscope.training.loop import TrainPlan
from detrscope.training.run_folder import SNAPSHOTS, TRACES, RunFolder
from detrscope.training.train_step import make_matcher

TRACE = ".trace"


class SnapshotRecorder:
    """Looks at its images when called and keeps what it sees in the run folder, a small file each time.

    Args:
        folder: of the run.
        probes: the images, at least one.
        card: of the model that learns.
        config: how it learns: the costs of matching, and `recording`.
    """

    def __init__(
        self, folder: RunFolder, probes: Sequence[AnnotatedImage], card: ModelCard, config: TrainConfig
    ) -> None:
        self.folder = folder
        self.probes = tuple(probes)
        self.card = card
        self.config = config.recording
        self._matcher = make_matcher(config, card.scoring)
        self._meter = PartMeter(probes)
        self._channels: dict[str, tuple[int, ...]] = {}  # of features, by site
        self._since: float | None = None  # the first look of this process
        self._seconds = 0.0

    def __call__(self, model: nn.Module, step: int, plan: TrainPlan) -> None:
        """Look with the model as it is after `step` steps."""
        assert isinstance(model, DetectionTransformer)
        start = time.perf_counter()
        if self._since is None:
            self._channels = _channels_on_disk(self.folder / SNAPSHOTS)
        looks, masses, whole = {}, [], []
        epoch = step / plan.steps_per_epoch
        keeps_whole = self._keeps_whole(step, plan)
        with _in_evaluation(model):
            for probe in self.probes:
                trace = self._trace(model, probe, "*" if keeps_whole else CROSS)
                if keeps_whole:
                    whole.append(self._save_whole(probe, trace, step, epoch))
                matched = self._matched(trace)
                look = looks[probe.name] = self._cut(trace, list(matched.values()))
                masses += self._meter.measure(probe.name, trace, look, matched)
                image = self.folder / SNAPSHOTS / f"{probe.name}{TRACE}"
                if not image.is_file():
                    save_trace(replace(trace, records={}, features={}), image)
        path = save_snapshot(SnapshotStep(step, epoch, looks), self.folder / SNAPSHOTS)
        if masses:
            self.folder.add_attention_row(attention_row(step, epoch, masses))
        if self._since is None:
            self._since = start
            self._tell_size(path, whole, step, plan)
        self._seconds += time.perf_counter() - start
        if step >= plan.total_steps:
            share = self._seconds / (time.perf_counter() - self._since)
            log.info("looking at probe images took %.1f s, %.1f%% of the time", self._seconds, 100 * share)

    def _keeps_whole(self, step: int, plan: TrainPlan) -> bool:
        """Whether this is the first look, one in so many, or the last."""
        if not self.config.traces:
            return False
        before = step // (self.config.every or plan.steps_per_epoch)  # looks, of which the first is number 0
        return before % self.config.traces == 0 or step >= plan.total_steps

    def _save_whole(self, probe: AnnotatedImage, trace: TraceData, step: int, epoch: float) -> Path:
        notes = {"epoch": round(epoch, 2), "step": step}
        path = self.folder / TRACES / f"{probe.name}-step_{step:07d}{TRACE}"
        whole = replace(trace, features={}, original=probe.image, regions=probe.overview, notes=notes)
        return save_trace(whole, path)

    def _trace(self, model: DetectionTransformer, probe: AnnotatedImage, sites: str) -> TraceData:
        image = self.card.preprocessing.resize(probe.image)
        height, width = probe.image.shape[-2:]
        eye = Probe([sites], features=["*"] if self.config.features else ())
        device = next(model.parameters()).device
        with torch.no_grad():
            outputs = model(Batch(self.card.preprocessing.normalise(image)[None].to(device)), probe=eye)
        trace = TraceData.of_probe(
            eye,
            outputs,
            card=self.card,
            geometry=Geometry.of_resize(height, width, (image.shape[1], image.shape[2]), probe.orientation),
            image=image,
            model_sites=model.sites,
        )
        return replace(trace, targets=probe.targets, source=str(probe.path))

    def _matched(self, trace: TraceData) -> dict[int, int]:
        """The query of the last layer that answers for each object, as training would match them."""
        assert trace.targets is not None
        last = Outputs(trace.logits[-1:, None], trace.boxes_cxcywh[-1:, None])
        found = self._matcher(last, [trace.targets])
        return dict(zip(found.targets[0].tolist(), found.queries[0].tolist(), strict=True))

    def _cut(self, trace: TraceData, matched: Sequence[int]) -> ProbeSnapshot:
        """Keep the queries that answer for objects, then the best-scoring."""
        if not self._channels:
            self._channels = {site: _strongest(trace, site, self.config.features) for site in trace.features}
        best = trace.scores().amax(1).argsort(descending=True, stable=True).tolist()
        kept = list(dict.fromkeys([*matched, *best]))[: max(len(matched), self.config.queries)]
        return ProbeSnapshot.of_trace(trace, torch.tensor(sorted(kept)), self._channels)

    def _tell_size(self, path: Path, whole: Sequence[Path], step: int, plan: TrainPlan) -> None:
        """Say how much disk the looks that are to come will take, as much as the first one each."""
        rest = [s for s in range(step + 1, plan.total_steps + 1) if plan.snapshot_due(s, self.config.every)]
        each = path.stat().st_size / 1e6
        log.info(
            "%d probe images x %d looks: about %.3g MB in %s (%.3g MB a look)",
            len(self.probes),
            1 + len(rest),
            each * (1 + len(rest)),
            path.parent,
            each,
        )
        if whole:
            times = 1 + sum(self._keeps_whole(s, plan) for s in rest)
            size = sum(one.stat().st_size for one in whole) / 1e6
            log.info(
                "%d of them with whole traces: about %.3g MB in %s", times, size * times, whole[0].parent
            )


def make_recorder(
    config: RunConfig,
    loaded: Loaded,
    folder: RunFolder,
    training: DetectionDataset,
    val: DetectionDataset | None,
) -> SnapshotRecorder | None:
    """Looks at the probe images of a run, where its config asks for them.

    Raises:
        UserError: see `open_probe_images`; or features are asked of a backbone that gives none.
    """
    probes = open_probe_images(config, loaded.card.classes, training, val)
    if probes and config.train.recording.features and not loaded.model.feature_sites:
        raise UserError("train.recording.features: this backbone does not give the maps of its convolutions")
    return SnapshotRecorder(folder, probes, loaded.card, config.train) if probes else None


def load_recording(run: str | Path) -> Recording:
    """What a `SnapshotRecorder` has kept, with the metrics of the run.

    Raises:
        UserError: no looks, or they cannot be read.
    """
    folder = RunFolder(run)
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder; expected a run")
    looks = folder / SNAPSHOTS
    images = {path.stem: load_trace(path) for path in sorted(looks.glob(f"*{TRACE}"))}
    moments = [load_snapshot(path) for path in snapshot_paths(looks)]
    if not moments or not images:
        old = " that this version reads (those of an older one are .npz)" if any(looks.glob("*.npz")) else ""
        raise UserError(f"{folder.path}: holds no looks{old}; train with --probe-images DIR")
    names = [name for name in moments[0].looks if name in images]
    return Recording(
        folder.path.resolve().name,
        {name: images[name] for name in names},
        moments,
        folder.rows(),
        folder.attention_rows(),
    )


def _strongest(trace: TraceData, site: str, count: int) -> tuple[int, ...]:
    """The channels with the greatest mean square."""
    strength = trace.features[site].float().square().mean((1, 2))  # [C]
    return tuple(strength.topk(min(count, len(strength))).indices.tolist())


def _channels_on_disk(folder: Path) -> dict[str, tuple[int, ...]]:
    """The channels that earlier looks of this run have kept."""
    for path in snapshot_paths(folder)[:1]:
        for look in load_snapshot(path).looks.values():
            return {site: maps.channels for site, maps in look.features.items()}
    return {}


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """In the `with`, every module is in evaluation mode; afterwards each is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
