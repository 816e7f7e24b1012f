"""The request to record attention during a forward pass, and what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import Tensor

from detrscope.core.edits import Edit, GraphEdit
from detrscope.core.errors import UserError, suggest_site
from detrscope.core.geometry import Geometry
from detrscope.core.records import Gradient, Record
from detrscope.core.types import Level


class Probe:
    """Request for one forward pass; afterwards it holds the records.

    Sites are named after the path, such as `encoder.3.self`, `decoder.5.cross`, `backbone.layer4.2.conv3`. A pattern
    with `*` stands for every site that matches.

    Args:
        sites: names or patterns of the attention sites to record; None records all of them.
        edits: interventions to apply, each at its own site.
        features: names or patterns of the backbone convolutions whose feature maps are recorded.
        explain: queries, or pairs of query and class index, whose gradients are recorded; without an index, that of
            the best class. One image only.
        values: record the attention values too, a third of a record. They rebuild a layer's output; no map needs
            them. Always recorded with `explain`.
        graph_edits: inputs of a graph that is being exported, by site.
        geometry: of the images of the batch, which are of one size; needed by edits of a region.
        tokens: keep the tokens that enter the encoder, within the graph of gradients.

    Attributes:
        records: attention records by site.
        feature_maps: feature maps [B, C, H, W] by site.
        gradients: one for each entry of `explain`.
        levels: sizes of the feature maps that the tokens come from.
        shapes: shapes of the tensors along the path by name, such as `feature map 0`.
        tokens: [B, S, D] tokens that enter the encoder, not detached, where `keeps_tokens`.
        taps: zeros [B, Q, h * dv] added to the output of each recorded site; the leaves of the graph for `explain`.
    """

    def __init__(
        self,
        sites: str | Sequence[str] | None = None,
        edits: Sequence[Edit] = (),
        features: str | Sequence[str] = (),
        explain: Sequence[int | tuple[int, int]] = (),
        values: bool = True,
        graph_edits: Mapping[str, GraphEdit] = MappingProxyType({}),
        geometry: Geometry | None = None,
        tokens: bool = False,
    ) -> None:
        self.sites = None if sites is None else _as_tuple(sites)
        self.edits = tuple(edits)
        self.features = _as_tuple(features)
        self.explain = tuple(explain)
        self.values = values or bool(explain)
        self.graph_edits = graph_edits
        self.geometry = geometry
        self.keeps_tokens = tokens
        self.tokens: Tensor | None = None
        self.records: dict[str, Record] = {}
        self.feature_maps: dict[str, Tensor] = {}
        self.gradients: tuple[Gradient, ...] = ()
        self.levels: tuple[Level, ...] = ()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.taps: dict[str, Tensor] = {}

    def check(self, attention_sites: Iterable[str], feature_sites: Iterable[str] = ()) -> None:
        """Check that every site and pattern occurs in the model.

        Raises:
            UserError: a pattern that matches no site; the nearest name and the known ones are given.
        """
        attention_sites, feature_sites = tuple(attention_sites), tuple(feature_sites)
        patterns = [(p, attention_sites) for p in (*(self.sites or ()), *(e.site for e in self.edits))]
        patterns += [(p, feature_sites) for p in self.features]
        for pattern, known in patterns:
            if not any(fnmatchcase(site, pattern) for site in known):
                raise UserError(f"site '{pattern}' is not in this model; {suggest_site(pattern, known)}")

    def records_site(self, site: str) -> bool:
        """Return whether this attention site is to be recorded."""
        return self.sites is None or _matches(site, self.sites)

    def records_features_of(self, site: str) -> bool:
        """Return whether the feature map of this convolution is to be recorded."""
        return _matches(site, self.features)

    def edits_at(self, site: str) -> list[Edit]:
        """Return the edits at this site, in order."""
        return [edit for edit in self.edits if fnmatchcase(site, edit.site)]

    def keep(self, site: str, record: Record) -> None:
        """Store the record of an attention site."""
        self.records[site] = record

    def keep_features(self, site: str, features: Tensor) -> None:
        """Store the feature map [B, C, H, W] of a convolution."""
        self.feature_maps[site] = features.detach().clone()

    def tap(self, site: str, out: Tensor) -> Tensor:
        """Return the output of a site, with a leaf of zeros added where gradients are recorded.

        With out = A @ V, the gradient of A is that of out @ V^T. The graph begins at the leaves, so nothing before
        the first site takes part in it.
        """
        if not (self.explain and self.records_site(site)):
            return out
        self.taps[site] = torch.zeros_like(out, requires_grad=True)
        return out + self.taps[site]


def _as_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _matches(site: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(site, pattern) for pattern in patterns)
