"""The HTML page of the demo: one file beside its images; nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from detrscope.core.safe_text import escape_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem } p.lead { color: #555; margin-top: .2rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 8px }
.grid img, video, img.wide { width: 100%; border-radius: 6px }
table { border-collapse: collapse } td, th { padding: .3rem 1rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
pre { background: #f4f4f4; padding: .8rem; border-radius: 6px; overflow-x: auto }
"""

NEXT = """detrscope detect YOUR.jpg                         # the shipped model is trained on drawn dogs only
detrscope see YOUR.jpg                            # all figures of its attention, and a page to click on
detrscope explore YOUR.jpg                        # the page live: mute heads, hide regions, see the answer
detrscope data convert voc:BCCD_Dataset --out bccd  # real images: github.com/Shenggan/BCCD_Dataset
detrscope train --preset bccd --data bccd --out run # ten minutes on two cores
detrscope evaluate --model run --data bccd
detrscope see bccd/val/BloodImage_00002.jpg --model run
detrscope train --preset finetune --from detr-r50 --data coco:DIR --out run"""


@dataclass(frozen=True)
class DemoPage:
    """Content of the page; paths are relative to it."""

    detection_images: Sequence[str]
    films: Sequence[str]  # of the training, and of the queries of one image
    figures: Sequence[str]  # of one trace of the shipped model
    findings: Sequence[str]  # sentences about its metrics
    parts: str
    curves: str
    shipped: Mapping[str, float | None]  # val/AP ...
    trained: Mapping[str, float | None]
    steps: int
    seconds: float
    report: str = ""  # page on which one clicks points; empty for none
    run: str = ""  # page of the training; empty for none

    def html(self) -> str:
        """Return the page as text."""
        images = "".join(f'<img src="{_address(path)}" alt="detections">' for path in self.detection_images)
        rows = "".join(
            f"<tr><td>{_text(name)}</td>"
            + "".join(f"<td>{_percent(row.get(f'val/{key}'))}</td>" for key in COLUMNS)
            + "</tr>"
            for name, row in (
                ("the shipped model", self.shipped),
                (f"trained here from scratch, {self.steps} steps, {self.seconds:.0f} s", self.trained),
            )
        )
        head = "".join(f"<th>{key}</th>" for key in COLUMNS)
        figures = "".join(
            f'<a href="{_address(path)}"><img class="wide" src="{_address(path)}" alt="{_text(Path(path).stem)}"></a>'
            for path in self.figures
        )
        words = "".join(f"<li>{_text(line)}</li>" for line in self.findings)
        folder = str(Path(self.figures[0]).parent)
        explored = ""
        if self.report:
            explored = (
                f'<p><a href="{_address(self.report)}">Open the page of one of them</a>: point at a box, click '
                "a point, step through layers and heads.</p>"
            )
        steps = ""
        if self.run:
            steps = (
                f'<p><a href="{_address(self.run)}">Open the page of the training</a>: move through its steps, follow'
                " one object, compare two steps side by side.</p>"
            )
        return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>detrscope demo</title><style>{STYLE}</style></head><body>
<h1>detrscope</h1>
<p class="lead">A detection transformer, trained from scratch on this machine a moment ago, and its attention.</p>
<h2>How attention grew</h2>
<video src="{_address(self.films[0])}" controls autoplay loop muted></video>
<p>Six images it never trained on. Bright: cross-attention of the queries in the last decoder layer. It starts local by
construction, around each query's reference box; that the boxes sit on dogs, and that attention gathers inside them,
is learned.</p>
{steps}
<video src="{_address(self.films[1])}" controls autoplay loop muted></video>
<p>One of the images, query by query. Query numbers change at every step; each panel tracks one query by its box, class
and attention.</p>
<h2>On which parts of a dog</h2>
<img class="wide" src="{_address(self.parts)}" alt="attention on ears, muzzle, paws and other parts over training">
<p>Every drawing has a mask of its parts. A cell of the map is wider than an ear or a paw, and its weight is spread
evenly over it.</p>
<h2>Average precision</h2>
<table><tr><th></th>{head}</tr>{rows}</table>
<p>COCO average precision in percent on drawings neither model has trained on.</p>
<h2>Detections of the shipped model</h2>
<div class="grid">{images}</div>
<p>Only dogs count: cats are distractors.</p>
<h2>Inside the shipped model</h2>
{explored}{figures}
<ul>{words}</ul>
<p>These and more are in <a href="{_address(folder)}/">{_text(folder)}</a>, with the trace they were drawn
from: every weight of every layer and head, in one file that loads without the model.</p>
<h2>Curves</h2>
<img class="wide" src="{_address(self.curves)}" alt="training curves">
<h2>What to try next</h2>
<pre>{_text(NEXT, keep=chr(10))}</pre>
</body></html>
"""


COLUMNS = ("AP", "AP50", "AP75")


def _text(text: str, *, keep: str = "") -> str:
    """Return text for HTML: no tags, no control characters."""
    return escape(escape_text(text, keep=keep))


def _address(path: str) -> str:
    """Return a path beside the page as a URL; `#`, `?` and `%` are parts of names."""
    return quote(Path(path).as_posix().encode("utf-8", "surrogateescape"))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
