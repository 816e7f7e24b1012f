"""A look: which sites to keep records of, and which edits to make while looking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from detrscope.core.edits import Edit
from detrscope.core.errors import UserError, nearest_site
from detrscope.core.records import Record
from detrscope.core.types import Level


class Probe:
    """Handed to one `forward`; afterwards `records` holds what the doors kept, by site.

    Sites are named after the path, such as `encoder.3.self`, `decoder.5.cross`, `backbone.layer4.2.conv3`. A pattern
    with `*` stands for all that match.

    Args:
        sites: names or patterns of the attention sites to record; None records every one.
        edits: changes to make, each at its own site.
        features: names or patterns of backbone convolutions whose feature maps to keep.
        gradients: make what the recorded sites give out the leaves of a graph, so that the gradient of a prediction
            with respect to it can be asked for (`outputs`). The gradient of a weight follows: with out = A @ V, that
            of A is the one of out @ V^T.
        values: keep the values too, about a third of a record; they rebuild a layer's output, but no map needs them.
    """

    def __init__(
        self,
        sites: str | Sequence[str] | None = None,
        edits: Sequence[Edit] = (),
        features: str | Sequence[str] = (),
        gradients: bool = False,
        values: bool = True,
    ) -> None:
        self.sites = None if sites is None else _several(sites)
        self.edits = tuple(edits)
        self.feature_sites = _several(features)
        self.gradients = gradients
        self.values = values
        self.records: dict[str, Record] = {}
        self.outputs: dict[str, Tensor] = {}  # [B, Q, h*dv] zeros added to what each site gives out, by site
        self.features: dict[str, Tensor] = {}  # [B, C, H, W] by site
        self.levels: tuple[Level, ...] = ()  # sizes of the maps that the tokens come from
        self.shapes: dict[str, tuple[int, ...]] = {}  # of what flowed along the path, by name

    def check(self, attention: Iterable[str], features: Iterable[str] = ()) -> None:
        """Refuse sites that the model does not have, rather than record nothing in silence.

        Raises:
            UserError: a pattern that matches no site; the nearest name and the known ones are given.
        """
        wanted = [(p, tuple(attention)) for p in (*(self.sites or ()), *(e.site for e in self.edits))]
        wanted += [(p, tuple(features)) for p in self.feature_sites]
        for pattern, known in wanted:
            if not any(fnmatchcase(site, pattern) for site in known):
                raise UserError(f"site '{pattern}' is not in this model; {nearest_site(pattern, known)}")

    def wants(self, site: str) -> bool:
        """Whether the record of this attention site is kept."""
        return self.sites is None or any(fnmatchcase(site, pattern) for pattern in self.sites)

    def wants_features(self, site: str) -> bool:
        """Whether the feature map of this convolution is kept."""
        return any(fnmatchcase(site, pattern) for pattern in self.feature_sites)

    def edits_at(self, site: str) -> list[Edit]:
        """The edits asked for at this site, in order."""
        return [edit for edit in self.edits if fnmatchcase(site, edit.site)]

    def keep(self, site: str, record: Record) -> None:
        """Called by the doors."""
        self.records[site] = record

    def tap(self, site: str, out: Tensor) -> Tensor:
        """Called by the doors with what they give out: the same values, as part of a graph where one is wanted.

        The graph begins here, so that nothing before the first site takes part in it.
        """
        if not (self.gradients and self.wants(site)):
            return out
        self.outputs[site] = torch.zeros_like(out, requires_grad=True)
        return out + self.outputs[site]

    def keep_features(self, site: str, features: Tensor) -> None:
        """Called by the backbone. [B, C, H, W]."""
        self.features[site] = features.detach().clone()


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
