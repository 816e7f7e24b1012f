"""The sanity check of Adebayo et al. 2018 (arXiv:1810.03292, section 3): a map must depend on what was learned.

Parameters are destroyed from the predictions down to the pixels, stage by stage and never restored (cascading
randomisation); a map that stays as it was shows the picture, not the model. Each parameter's entries are shuffled, so
that their distribution stays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from detrscope.console import log, progress
from detrscope.explain.explainers import EXPLAINERS, explain_inputs_in, explain_inputs_of
from detrscope.inference.detector import Detector
from detrscope.lens.faithfulness import Sanity, rank_correlation


def sanity_check(
    detector: Detector, paths: Sequence[Path], methods: Sequence[str], threshold: float, seed: int = 0
) -> list[Sanity]:
    """Rank correlation of every method's map with its true one, after each stage.

    The map is that of the query with the same number and of the same class, whatever it finds by then. After each
    stage the model is another one; in two-stage families, queries start from other tokens once the encoder is
    shuffled.

    Args:
        detector: left as it is; a copy is shuffled.
        paths: pictures.
        methods: names of `EXPLAINERS`.
        threshold: least score of a detection.
        seed: of the shuffling.

    Returns:
        A line for each method; none, with a warning, where nothing is found in the pictures.
    """
    true = [[*explain_inputs_in(detector, path, threshold)] for path in paths]
    if not any(true):
        log.warning("no check with shuffled parameters: nothing is found in its %d pictures", len(paths))
        return []
    maps = [[{m: EXPLAINERS[m](case) for m in methods} for case in found] for found in true]
    shuffled = copy.deepcopy(detector)
    generator = torch.Generator().manual_seed(seed)
    correlations: dict[str, dict[str, float]] = {method: {} for method in methods}
    with progress() as bar:
        task = bar.add_task("stages, shuffling parameters", total=len([*stages(shuffled.model)]))
        for name, parameters in stages(shuffled.model):
            _shuffle(parameters, generator)
            now: dict[str, list[float]] = {method: [] for method in methods}
            for path, found, known in zip(paths, true, maps, strict=True):
                if not found:
                    continue
                detected = [case.detected for case in found]
                trace = shuffled.trace(path, explain=[(one.query, one.class_index) for one in detected])
                for case, before in zip(explain_inputs_of(shuffled, trace, detected), known, strict=True):
                    for method in methods:
                        now[method].append(rank_correlation(EXPLAINERS[method](case), before[method]))
            for method, values in now.items():
                correlations[method][name] = fmean(values)
            bar.advance(task)
    return [Sanity(method, values) for method, values in correlations.items()]


def stages(model: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Parameters from the predictions down to the pixels: heads, decoder layers from the last, ... backbone."""
    for name in ("heads", "decoder", "queries", "encoder", "neck", "backbone"):
        part = model.get_submodule(name)
        rest = {id(p): p for p in part.parameters()}
        layers = (
            [*part.layers]
            if name in ("decoder", "encoder") and isinstance(part.layers, nn.ModuleList)
            else []
        )
        inside = [[rest.pop(id(p)) for p in layer.parameters() if id(p) in rest] for layer in layers]
        if not layers and rest:
            yield name, [*rest.values()]
        for index, own in reversed([*enumerate(inside)]):
            yield f"{name}.{index}", [*rest.values(), *own]  # norms and the like go with the last layer
            rest = {}


def _shuffle(parameters: Sequence[nn.Parameter], generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in parameters:
            flat = parameter.detach().flatten().cpu()
            order = torch.randperm(len(flat), generator=generator)
            parameter.copy_(flat[order].view(parameter.shape))
