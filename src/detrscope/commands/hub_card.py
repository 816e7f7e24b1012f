"""Text of a model's card on the Hugging Face hub: README.md with its YAML header."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass

from detrscope._version import __version__
from detrscope.core.model_card import ModelCard
from detrscope.core.safe_text import escape_text

MAX_CLASSES_SHOWN = 100
DIGITS = 4  # of metrics
TASK = "object-detection"  # the hub's name of the task


@dataclass(frozen=True)
class Example:
    """Pictures of one image, by file name.

    Attributes:
        detections: the image with its detections.
        attention: the image with the attention of the best detection; None where nothing was detected.
        count: number of detections.
    """

    detections: str
    attention: str | None
    count: int


@dataclass(frozen=True)
class CardText:
    """What the card says besides the model's own metadata.

    Attributes:
        repository: name of the repository, `OWNER/NAME`.
        license: the hub's name of the licence.
        dataset: name of the dataset that the metrics are of, where known.
        examples: pictures, in order.
        curves: file name of the curves of training, where there are any.
    """

    repository: str
    license: str
    dataset: str | None
    examples: tuple[Example, ...]
    curves: str | None


def hub_readme(card: ModelCard, text: CardText) -> str:
    """Return README.md of a repository on the hub."""
    parts = [
        f"---\n{_header(card, text)}\n---",
        f"# {text.repository.partition('/')[2]}",
        _summary(card),
        *_pictures(text),
        _usage(text),
        *_metrics(card, text),
        _classes(card),
        "## The model",
        _facts(card, text),
    ]
    return "\n\n".join(parts) + "\n"


def _header(card: ModelCard, text: CardText) -> str:
    """Return the YAML header: licence, task, library, and the metrics where it is known what they are of."""
    from huggingface_hub import EvalResult, ModelCardData

    results = None
    if text.dataset:
        results = [
            EvalResult(
                task_type=TASK,
                dataset_type="".join(c if c.isalnum() and c.isascii() else "-" for c in text.dataset),
                dataset_name=text.dataset,
                metric_type=name,
                metric_value=round(value, DIGITS),
            )
            for name, value in card.metrics.items()
        ]
    data = ModelCardData(
        license=text.license,
        library_name="detrscope",
        pipeline_tag=TASK,
        tags=["detr", "detection-transformer", card.family.replace("_", "-"), "attention"],
        model_name=text.repository.partition("/")[2],
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _summary(card: ModelCard) -> str:
    count = len(card.classes)
    names = ", ".join(_plain(name) for name in card.classes.names[:8])
    more = f" and {count - 8} more" if count > 8 else ""
    masks = " with masks" if card.has_masks else ""
    return (
        f"A detection transformer ({_plain(card.variant)}, family {_plain(card.family)}) that detects {names}{more}"
        f"{masks}. Its attention can be looked at in every layer with detrscope."
    )


def _pictures(text: CardText) -> Iterator[str]:
    for example in text.examples:
        found = {0: "No detection", 1: "One detection"}.get(example.count, f"{example.count} detections")
        yield f"![{found}]({example.detections})"
        if example.attention:
            yield f"![Cross-attention of the best detection, last decoder layer]({example.attention})"
            yield "*Where the query of the best detection looks: mean of the heads, last decoder layer.*"


def _usage(text: CardText) -> str:
    return f"""## Use

```bash
pip install detrscope
detrscope detect photo.jpg --model {text.repository}
detrscope see photo.jpg --model {text.repository}
```

```python
import detrscope as ds

detector = ds.load("{text.repository}")
detections = detector.detect("photo.jpg", threshold=0.5)
trace = detector.trace("photo.jpg")
trace.cross_attention(query=int(detections.query_ids[0]), layer=-1).show()  # of the best detection
```"""


def _metrics(card: ModelCard, text: CardText) -> Iterator[str]:
    """Yield the table of metrics and the curves, where there are any."""
    if card.metrics:
        of = (
            f"on {_plain(text.dataset)}"
            if text.dataset
            else "of the checkpoint, on a dataset that is not named"
        )
        rows = [f"| {_plain(name)} | {value:.{DIGITS}g} |" for name, value in card.metrics.items()]
        yield "## Metrics"
        yield f"COCO metrics {of}. On other images they may be lower."
        yield "\n".join(["| metric | value |", "|---|---:|", *rows])
    if text.curves:
        yield f"![Curves of the training]({text.curves})"


def _classes(card: ModelCard) -> str:
    shown = list(zip(card.classes.ids, card.classes.names, strict=True))[:MAX_CLASSES_SHOWN]
    rows = [f"| {number} | {_plain(name)} |" for number, name in shown]
    table = "\n".join(["## Classes", "", "| category id | name |", "|---:|---|", *rows])
    if len(card.classes) > len(shown):
        table += f"\n\n{len(card.classes) - len(shown)} more are in `config.json`."
    return table


def _facts(card: ModelCard, text: CardText) -> str:
    facts = {
        "variant": _plain(card.variant),
        "weights": _plain(card.source),
        "input": card.preprocessing.describe(),
        "scores": f"{card.scoring}; not calibrated probabilities",
        "precision of the metrics": card.precision or "not recorded",
        "licence of the weights": text.license,
        "written by": f"detrscope {__version__}",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)


def _plain(text: str) -> str:
    """Return foreign text so that Markdown and HTML show it as it is."""
    shown = html.escape(escape_text(text), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#~!" else c for c in shown)
