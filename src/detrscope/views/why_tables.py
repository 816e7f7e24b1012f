"""Tables of the page of `evaluate --why` that need no look inside the model: kinds, scores, sizes, slices, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from detrscope.core.safe_text import escape_text

MOST_CLASSES = 24  # in the confusion matrix of the page
MOST_LABELS = 100  # suspected annotations that the page lists
BAR = 260  # pixels of the longest bar of a histogram


def type_tables(types: Mapping[str, Any] | None) -> str:
    """Return the tables as HTML; nothing without numbers.

    Args:
        types: what `evaluation.error_types` computes, as JSON values.
    """
    if types is None:
        return ""
    parts = (_tide, _scores, _sizes, _slices, _confusion, _labels)
    return "\n".join(part(types) for part in parts)


def _tide(types: Mapping[str, Any]) -> str:
    rows = [
        (name, str(types["tide_counts"][name]), f"{100 * value:+.1f}")
        for name, value in types["tide"].items()
    ]
    return "<h2>Kinds of errors over all scores (TIDE)</h2>" + _table(("kind", "count", "AP50"), rows)


def _scores(types: Mapping[str, Any]) -> str:
    """Return the histogram of scores, which also shows how far they are calibrated."""
    bins = [(score, right, count) for score, right, count in types["bins"] if count]
    most = max((count for *_, count in bins), default=1)
    rows = [
        (f"{score:.2f}", f"{right:.2f}", str(count), _bar(right * count, (1 - right) * count, most))
        for score, right, count in bins
    ]
    return (
        "<h2>Scores</h2><p>Blue: detections that find an object, orange: those that find none. Mean distance between"
        f" score and share of right detections (calibration error): {types['calibration_error']:.3f}.</p>"
        + _table(("score", "right", "detections", ""), rows, left=0)
    )


def _sizes(types: Mapping[str, Any]) -> str:
    """Return the histograms of the sizes of objects and of detections."""
    bins = [b for b in types["sizes"] if b["found"] + b["missed"] + b["right"] + b["wrong"]]
    most = max((max(b["found"] + b["missed"], b["right"] + b["wrong"]) for b in bins), default=1)
    rows = [
        (
            f"from {b['side']}",
            f"{b['found']} of {b['found'] + b['missed']}",
            _bar(b["found"], b["missed"], most),
            f"{b['right']} of {b['right'] + b['wrong']}",
            _bar(b["right"], b["wrong"], most),
        )
        for b in bins
    ]
    return (
        "<h2>Sizes, from the threshold up</h2><p>By the square root of a box's area in pixels of the image. Blue:"
        " objects that are found, detections that are right; orange: objects that are missed, detections that find"
        " none.</p>" + _table(("side", "objects found", "", "detections right", ""), rows)
    )


def _slices(types: Mapping[str, Any]) -> str:
    text, by = "<h2>AP of parts</h2>", ""
    rows: list[tuple[str, ...]] = []
    for part in types["slices"]:
        if part["by"] != by:
            by = part["by"]
            rows.append((f"<b>by {_text(by)}</b>", "", ""))
        ap = "-" if part["AP"] is None else f"{100 * part['AP']:.1f}"
        rows.append((_text(part["name"]), str(part["count"]), ap))
    return text + _table(("", "images, or objects", "AP"), rows)


def _confusion(types: Mapping[str, Any]) -> str:
    classes = types["classes"]
    if len(classes) > MOST_CLASSES + 1:
        return "<p>The confusion matrix is in why.json.</p>"
    rows = [
        (_text(name), *map(str, counts)) for name, counts in zip(classes, types["confusion"], strict=True)
    ]
    return "<h2>Confusion, from the threshold up</h2>" + _table(
        ("annotated \\ detected", *map(_text, classes)), rows
    )


def _labels(types: Mapping[str, Any]) -> str:
    suspected: Sequence[Mapping[str, Any]] = types["suspected"]
    if not suspected:
        return ""
    rows = []
    for one in suspected[:MOST_LABELS]:
        x, y, width, height = one["bbox_xywh"]
        is_class = one["kind"] == "wrong class"
        annotated = f"{one['annotated']} (annotation {one['annotation']})" if is_class else "nothing"
        box = f"{x:.0f}, {y:.0f} to {x + width:.0f}, {y + height:.0f}"
        detected = f"{one['detected']} {one['score']:.2f}"
        rows.append((_text(one["file_name"]), _text(annotated), _text(detected), box))
    more = len(suspected) - len(rows)
    return (
        "<h2>Annotations that may be wrong</h2><p>The model is sure of something else; the surest first.</p>"
        + _table(("image", "annotated", "detected", "box"), rows, left=4)
        + (f"<p>{more} more are in why.json.</p>" if more else "")
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table of HTML texts; the first `left` columns are text, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        marks = ["" if i < left or cell.startswith("<span") else " class=n" for i, cell in enumerate(cells)]
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{line(headings, 'th')}</tr>{body}</table>"


def _bar(right: float, wrong: float, most: float) -> str:
    """Return a bar of two colours."""
    widths = (("right", BAR * right / max(most, 1)), ("wrong", BAR * wrong / max(most, 1)))
    return (
        "<span>"
        + "".join(f'<span class="bar {kind}" style="width:{w:.1f}px"></span>' for kind, w in widths)
        + "</span>"
    )


def _text(text: str) -> str:
    """Return text for HTML: no tags, no control characters."""
    return escape(escape_text(text))
