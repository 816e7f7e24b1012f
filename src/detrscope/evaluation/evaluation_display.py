"""Display mixin: how an evaluation shows itself in a notebook."""

from __future__ import annotations

from typing import Any

from detrscope.core.html import html_table

SIZES = ("all", "small", "medium", "large")


class EvaluationDisplay:
    """Tables of AP and AR over all classes, and of the AP of each class, in percent."""

    def __repr__(self: Any) -> str:
        shown = ", ".join(f"{name} {_percent(getattr(self, name))}" for name in ("AP", "AP50", "AP75"))
        return f"Evaluation({shown}; {self.images} images, {self.boxes} boxes)"

    def _repr_html_(self: Any) -> str:
        rows = [
            ("AP .50:.95", *(_percent(v) for v in (self.AP, self.AP_small, self.AP_medium, self.AP_large))),
            ("AP50", _percent(self.AP50), "", "", ""),
            ("AP75", _percent(self.AP75), "", "", ""),
            (
                "AR, best 100",
                *(_percent(v) for v in (self.AR_100, self.AR_small, self.AR_medium, self.AR_large)),
            ),
        ]
        if self.masks is not None:
            rows.append(("mask AP .50:.95", _percent(self.masks.AP), "", "", ""))
        all_classes = html_table(("", *SIZES), rows, f"{self.images} images, {self.boxes} boxes; percent")
        classes = sorted((row for row in self.per_class if row.boxes), key=lambda row: -row.boxes)
        if len(classes) < 2:
            return all_classes
        lines = [(row.name, row.boxes, _percent(row.AP), _percent(row.AP50)) for row in classes]
        return all_classes + html_table(("class", "boxes", "AP", "AP50"), lines, "classes, most boxes first")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
