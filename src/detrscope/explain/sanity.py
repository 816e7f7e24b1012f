"""The sanity check of Adebayo et al. 2018 (arXiv:1810.03292, section 3): a map must depend on the parameters.

Parameters are randomised from the predictions down to the pixels, stage by stage and never restored (cascading
randomisation); a map that does not change shows the image, not the model. Each parameter's entries are shuffled, so
that their distribution is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from detrscope.console import log, progress
from detrscope.explain.explainers import EXPLAINERS, explain_detections, explain_inputs
from detrscope.explain.masked_images import MASKS
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import require_torch_engine
from detrscope.lens.deletion_curves import Sanity, rank_correlation


def sanity_check(
    detector: Detector,
    paths: Sequence[Path],
    methods: Sequence[str],
    threshold: float,
    seed: int = 0,
    masks: int = MASKS,
) -> list[Sanity]:
    """Return, for every method and stage, the rank correlation of its maps with those of the trained model.

    Maps are compared for the same query index and class, whatever the query detects by then. After each stage it is
    another model: in two-stage families, queries start from other tokens once the encoder is shuffled.

    Args:
        detector: not changed; a copy is shuffled.
        paths: images.
        methods: names of `EXPLAINERS`.
        threshold: minimum score of a detection.
        seed: random seed of the shuffling.
        masks: number of masks of D-RISE.

    Returns:
        One result for each method; empty, with a warning, where nothing is detected in the images.

    Raises:
        UserError: PyTorch does not run this detector.
    """
    cases_by_path = [
        (path, cases) for path in paths if (cases := explain_detections(detector, path, threshold, masks))
    ]
    if not cases_by_path:
        log.warning("no check with shuffled parameters: nothing is detected in its %d images", len(paths))
        return []
    trained = [[{m: EXPLAINERS[m](case) for m in methods} for case in cases] for _, cases in cases_by_path]
    shuffled = copy.deepcopy(detector)
    model = require_torch_engine(shuffled.engine, "the check with shuffled parameters").model
    generator = torch.Generator().manual_seed(seed)
    correlations: dict[str, dict[str, float]] = {method: {} for method in methods}
    with progress() as bar:
        task = bar.add_task("stages, shuffling parameters", total=len([*sanity_stages(model)]))
        for stage, parameters in sanity_stages(model):
            _shuffle(parameters, generator)
            values: dict[str, list[float]] = {method: [] for method in methods}
            for (path, cases), maps in zip(cases_by_path, trained, strict=True):
                detected = [case.detected for case in cases]
                trace = shuffled.trace(path, explain=[(d.query, d.class_index) for d in detected])
                changed = explain_inputs(shuffled, trace, detected, masks)
                for case, before in zip(changed, maps, strict=True):
                    for method in methods:
                        values[method].append(rank_correlation(EXPLAINERS[method](case), before[method]))
            for method in methods:
                correlations[method][stage] = fmean(values[method])
            bar.advance(task)
    return [Sanity(method, by_stage) for method, by_stage in correlations.items()]


def sanity_stages(model: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Yield the parameters of each stage from predictions to pixels: heads, last decoder layer, ... backbone."""
    for name in ("heads", "decoder", "queries", "encoder", "neck", "backbone"):
        part = model.get_submodule(name)
        rest = {id(p): p for p in part.parameters()}
        stack = part.layers if name in ("decoder", "encoder") else None
        layers = [*stack] if isinstance(stack, nn.ModuleList) else []
        by_layer = [[rest.pop(id(p)) for p in layer.parameters() if id(p) in rest] for layer in layers]
        if not layers and rest:
            yield name, [*rest.values()]
        for index, own in reversed([*enumerate(by_layer)]):
            yield f"{name}.{index}", [*rest.values(), *own]  # what no layer owns goes with the last layer
            rest = {}


def _shuffle(parameters: Sequence[nn.Parameter], generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in parameters:
            flat = parameter.detach().flatten().cpu()
            order = torch.randperm(len(flat), generator=generator)
            parameter.copy_(flat[order].view(parameter.shape))
