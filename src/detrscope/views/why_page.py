"""The page of `evaluate --why`: what costs AP, what to change, and the worst images with their evidence."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from detrscope.core.safe_text import escape_text
from detrscope.core.verdicts import MEANINGS, StageCost, Verdict
from detrscope.views.canvas.thumbnails import box_thumbnail
from detrscope.views.why_tables import type_tables

SIDE = 360  # pixels of a picture
MARGIN = 0.6  # of a box around it, as context
MOST = 60  # pictures on the page
MISSED, FALSE = (230, 90, 0), (0, 114, 178)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1100px }
body { margin: 2rem auto; padding: 0 1rem } table { border-collapse: collapse; margin: .5rem 0 }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 14px }
.card { border: 1px solid #ddd; border-radius: 6px; padding: 8px; overflow-wrap: anywhere; font-size: .9rem }
.card img { width: 100%; border-radius: 4px } .card h3 { margin: .2rem 0; font-size: 1rem } .card p { margin: .2rem 0 }
.card table { font-size: .8rem } code { overflow-wrap: anywhere }
.bar { height: .7em; display: inline-block } .right { background: #0072b2 } .wrong { background: #e65a00 }
"""


@dataclass(frozen=True)
class WhyPage:
    """Content of the page.

    Attributes:
        heading: model and dataset.
        summary: AP and its interval, counts and threshold, as lines.
        costs: what each stage costs.
        advice: what to change.
        verdicts: all errors.
        types: what `evaluation.error_types` computes, as JSON values; None where it was not computed.
    """

    heading: str
    summary: Sequence[str]
    costs: Sequence[StageCost]
    advice: Sequence[str]
    verdicts: Sequence[Verdict]
    types: Mapping[str, Any] | None

    def html(self, pictures: Mapping[int, bytes]) -> str:
        """Return the page as text.

        Args:
            pictures: a JPEG for the verdicts that are shown, by their index.
        """
        rows = "".join(
            f"<tr><td>{_text(cost.stage)}</td><td class=n>{cost.missed}</td><td class=n>{cost.false}</td>"
            f"<td class=n>{percent_gained(cost.ap)}</td><td class=n>{percent_gained(cost.ap50)}</td>"
            f"<td>{_text(MEANINGS[cost.stage])}</td></tr>"
            for cost in self.costs
        )
        advice = "".join(f"<li>{_text(line)}</li>" for line in self.advice)
        cards = "".join(_card(self.verdicts[index], data) for index, data in pictures.items())
        left_out = len(self.verdicts) - len(pictures)
        more = f"<p>{left_out} more errors are in why.json.</p>" if left_out else ""
        return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"><title>{_text(self.heading)}</title>
<style>{STYLE}</style></head><body>
<h1>{_text(self.heading)}</h1>
{"".join(f"<p>{_text(line)}</p>" for line in self.summary)}
<h2>What to change, the dearest first</h2>
<ol>{advice or "<li>nothing costs a tenth of a point of AP</li>"}</ol>
<h2>Where errors arise</h2>
<table><tr><th>stage</th><th class=n>missed</th><th class=n>false</th><th class=n>AP</th><th class=n>AP50</th></tr>
{rows}</table>
<p>AP: what would be gained if all errors of that stage were mended: the missed objects found, the false detections
gone.</p>
{type_tables(self.types)}
<h2>The errors</h2>
<p>Orange: an object that is not found. Blue: a detection that finds none. Layer by layer: the greatest overlap of any
query, and the best score for the class of queries that overlap by .5 or more; for a false detection, of its own
query.</p>
<div class="cards">{cards}</div>
{more}
</body></html>
"""


def picture_of(image: np.ndarray, verdict: Verdict) -> bytes:
    """Return the surroundings of an error as a JPEG, with its box.

    Args:
        image: uint8 [H, W, 3].
        verdict: the error.
    """
    colour = MISSED if verdict.kind == "missed" else FALSE
    return box_thumbnail(image, verdict.box_xyxy, colour, side=SIDE, margin=MARGIN)


def shown_verdicts(verdicts: Sequence[Verdict], costs: Sequence[StageCost], most: int = MOST) -> list[int]:
    """Return indices of the errors that the page shows: of each stage in turn, the surest first."""
    by_stage = {
        cost.stage: sorted(
            (i for i, verdict in enumerate(verdicts) if verdict.stage == cost.stage),
            key=lambda i: (not verdicts[i].suspected, -(verdicts[i].score or 0.0)),
        )
        for cost in costs
    }
    chosen: list[int] = []
    while len(chosen) < most and any(by_stage.values()):
        for rows in by_stage.values():
            if rows and len(chosen) < most:
                chosen.append(rows.pop(0))
    return chosen


def percent_gained(ap: float) -> str:
    """Return a difference of AP in percent with its sign; one that rounds to 0 has a plus."""
    percent = round(100 * ap, 1)
    return f"{percent if percent else 0.0:+.1f}"


def _card(verdict: Verdict, data: bytes) -> str:
    e = verdict.evidence
    head = "".join(f"<th class=n>{layer}</th>" for layer in range(len(e.iou)))
    rows = "".join(
        f"<tr><td>{name}</td>"
        + "".join(f"<td class=n>{'-' if value is None else f'{value:.2f}'}</td>" for value in values)
        + "</tr>"
        for name, values in (("IoU", e.iou), ("score", e.score), ("margin", e.margin))
    )
    name = f"{verdict.name} {verdict.score:.2f}" if verdict.kind == "false" else verdict.name
    where = f"annotation {verdict.annotation}" if verdict.kind == "missed" else f"query {verdict.query}"
    doubt = "<p><b>The annotation may be wrong.</b></p>" if verdict.suspected else ""
    proof = f"<p>Removed by the edit <code>{_text(repr(verdict.edit))}</code></p>" if verdict.edit else ""
    return (
        f'<div class="card"><img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{_text(name)}">'
        f"<h3>{'missed' if verdict.kind == 'missed' else 'false'}: {_text(name)}, {_text(verdict.stage)}</h3>"
        f"<p>{_text(verdict.text)}</p>{doubt}{proof}"
        f"<table><tr><td>layer</td>{head}</tr>{rows}</table><p>{_text(verdict.image)}, {where}</p></div>"
    )


def _text(text: str) -> str:
    """Return text for HTML: no tags, no control characters."""
    return escape(escape_text(text))
