"""Edits as the command line names them: texts, a file, regions to hide, tensors of another trace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from detrscope.core.edit_file import load_edits
from detrscope.core.edit_text import parse_edit, parse_region
from detrscope.core.edits import Bias, Edit, KeyBias, Swap
from detrscope.core.errors import UserError, suggest_site
from detrscope.core.records import DeformableRecord
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_file import load_trace

SWAP = re.compile(r"(\S+)(?:\s+(\S+))?\s+from\s+(\S.*)")
DENSE_PARTS, DEFORMABLE_PARTS = ("query", "key", "value"), ("points", "weights", "value")


def hide_region(region_xyxy: Sequence[float], site: str = "*") -> KeyBias:
    """Return the edit that hides a part of the image from attention.

    Args:
        region_xyxy: x0, y0, x1, y1 in pixels of the original image.
        site: name or pattern of the attention sites; "*" is all whose keys are tokens of the image.

    Raises:
        UserError: not four numbers, or corners in the wrong order.
    """
    return Bias.hide(region_xyxy, site)


def read_edits(
    texts: Sequence[str] = (),
    file: str | Path | None = None,
    hide: Sequence[str] = (),
    swaps: Sequence[str] = (),
) -> tuple[Edit, ...]:
    """Return the edits that a user named, those of the file first.

    Args:
        texts: in the grammar of `core.edit_text`.
        file: JSON that `see` saved.
        hide: regions `x0,y0,x1,y1` in pixels of the image, hidden at every site.
        swaps: such as `decoder.3.cross value from other.trace`; without a part, all that makes up the attention.

    Raises:
        UserError: a text that is not in the grammar, or a file or trace that cannot be read or lacks the site.
    """
    edits: list[Edit] = [] if file is None else [*load_edits(file)]
    edits += map(parse_edit, texts)
    edits += [KeyBias("*", region_xyxy=parse_region(text, "hide")) for text in hide]
    for text in swaps:
        edits += _swaps(text)
    return tuple(edits)


def _swaps(text: str) -> list[Swap]:
    """Return the swaps of a text such as `decoder.3.cross value from other.trace`."""
    match = SWAP.fullmatch(text.strip())
    if match is None:
        raise UserError(
            f"swap '{text}': expected SITE [PART] from FILE, such as 'decoder.3.cross value from a.trace'"
        )
    path = match[3]
    return swaps_from(load_trace(path), match[1], match[2], name=path)


def swaps_from(
    trace: TraceData, site: str, part: str | None = None, *, name: str = "the other trace"
) -> list[Swap]:
    """Return the edits that put the attention of a trace in place of a model's own.

    Args:
        trace: of an image whose maps have the same sizes.
        site: name or pattern of the sites.
        part: such as `value`; None is all that makes up the attention.
        name: name of the trace in messages.

    Raises:
        UserError: the site was not recorded, or has no such part.
    """
    text = f"{site}{f' {part}' if part else ''} from {name}"
    records = {name: record for name, record in trace.records.items() if fnmatchcase(name, site)}
    if not records:
        raise UserError(
            f"swap '{text}': site '{site}' was not recorded in {name}; {suggest_site(site, trace.sites)}"
        )
    swaps = []
    for each, record in records.items():
        valid = DEFORMABLE_PARTS if isinstance(record, DeformableRecord) else DENSE_PARTS
        if part is not None and part not in valid:
            raise UserError(f"swap '{text}': {each} has no part '{part}'; expected one of {', '.join(valid)}")
        for one in (part,) if part is not None else valid[:2]:
            tensor = getattr(record, one)
            if tensor is None:
                raise UserError(f"swap '{text}': {name} has no values of {each}; trace it with values=True")
            swaps.append(Swap(each, cast(Any, one), tensor))
    return swaps
