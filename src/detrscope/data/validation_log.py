"""What can be wrong with a dataset: one table of kinds, and a list that readers write to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from detrscope.console import log
from detrscope.core.errors import UserError

Severity = Literal["error", "warning", "info"]


class Kind(NamedTuple):
    """How bad a problem is and what to do about it."""

    severity: Severity  # error: cannot be used; warning: used by a rule that may surprise
    stops: bool  # nothing can be read until it is mended
    fix: str


KINDS = {
    "bad-id": Kind("error", True, "give images, annotations and categories integer ids"),
    "bad-value": Kind("error", True, "write the value that is expected"),
    "bad-label": Kind("error", True, "mend or delete that line or object"),
    "labels-in-two-places": Kind("error", True, "delete the one that is out of date"),
    "no-labels": Kind(
        "error",
        True,
        "put the labels where they are looked for; an image without objects has an empty label file",
    ),
    "duplicate-image-id": Kind("error", True, "give every image an id of its own"),
    "size-mismatch": Kind(
        "error", True, "use the images that were annotated, or scale width, height and boxes"
    ),
    "undeclared-category": Kind("error", True, "declare the category, or delete the annotation"),
    "missing-image": Kind("error", False, "add the file, or remove the image and its annotations"),
    "unreadable-image": Kind("error", False, "replace the file, or remove the image and its annotations"),
    "unknown-image": Kind("error", False, "declare the image, or delete the annotation (it is dropped)"),
    "bad-box": Kind(
        "error", False, "write four finite numbers x, y, width, height (the annotation is dropped)"
    ),
    "empty-box": Kind(
        "error", False, "draw the box again, or delete the annotation (AP counts it, training does not)"
    ),
    "box-outside": Kind(
        "error", False, "draw the box again, or delete the annotation (AP counts it, training does not)"
    ),
    "box-clipped": Kind(
        "warning", False, "none needed: models learn from the part inside the image; AP counts the whole box"
    ),
    "box-like-xyxy": Kind("warning", False, "write x, y, width, height instead of two corners"),
    "exif-turned": Kind("warning", False, "none needed: boxes are turned with the pixels"),
    "size-rounded": Kind("warning", False, "none needed: the size of the file is used"),
    "duplicate-annotation-id": Kind("warning", False, "none needed: evaluation counts annotations anew"),
    "box-like-fractions": Kind(
        "warning", False, "multiply by the width and height of the image: COCO counts pixels"
    ),
    "labels-like-pixels": Kind(
        "warning", False, "divide by the width and height of the image: YOLO has fractions"
    ),
    "corners-reversed": Kind("warning", False, "none needed: the corners are put in order"),
    "one-file-two-images": Kind("warning", False, "give every image a file of its own"),
    "one-label-two-images": Kind("warning", False, "give every image a name of its own, endings apart"),
    "missing-split": Kind("info", False, "none needed: a split that is not there is not read"),
    "unused-pictures": Kind(
        "warning", False, "annotate them, declare them as images without boxes, or move them"
    ),
    "duplicate-class-name": Kind("warning", False, "give every category a name of its own"),
    "unused-file": Kind("warning", False, "name it as its image or its split, or delete it"),
    "duplicate-box": Kind("warning", False, "delete one of the two"),
    "duplicate-image": Kind("warning", False, "keep one of the two"),
    "image-in-two-splits": Kind("warning", False, "take it out of one split: the score would be too good"),
    "class-without-boxes": Kind(
        "warning", False, "add examples or remove the category: it cannot be learned"
    ),
    "more-objects-than-queries": Kind("warning", False, "use more queries: every object needs one"),
    "class-not-evaluated": Kind("info", False, "none needed: it will have no AP in this split"),
    "exif-ambiguous": Kind(
        "info", False, "check a picture with `detrscope data show`: boxes are read as upright"
    ),
    "text-ids": Kind("info", False, "none needed: they are read, and written, as numbers"),
    "missing-area": Kind("info", False, "none needed: the area of the box is used"),
    "left-out-file": Kind("info", False, "none needed: a hidden or system file, or no picture, is no data"),
    "image-without-boxes": Kind("info", False, "none needed: images without objects are kept as negatives"),
}


# Kinds whose annotation or file is not used.
LEFT_OUT = (
    "unknown-image",
    "bad-box",
    "empty-box",
    "box-outside",
    "unused-file",
    "left-out-file",
    "missing-split",
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with where it is and what to do."""

    kind: str  # a key of KINDS
    split: str
    file: str  # of the image, or of the annotations where no image is meant
    reason: str
    annotation: int | None = None  # id
    category: str | None = None  # name, or id where there is no name

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def fix(self) -> str:
        """What to do."""
        return KINDS[self.kind].fix

    def __str__(self) -> str:
        where = self.file if self.annotation is None else f"{self.file}: annotation {self.annotation}"
        return f"{where}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain dict with severity and fix."""
        return {**asdict(self), "severity": self.severity, "fix": self.fix}


@dataclass
class ValidationLog:
    """Where a reader reports. Strict: what stops is raised as a UserError; else everything is collected."""

    split: str
    strict: bool = True
    found: list[Problem] = field(default_factory=list)

    def add(
        self, kind: str, file: object, reason: str, annotation: int | None = None, category: str | None = None
    ) -> None:
        """Report one.

        Raises:
            UserError: it stops the reading, and the list is strict.
        """
        problem = Problem(kind, self.split, str(file), reason, annotation, category)
        if self.strict and KINDS[kind].stops:
            raise UserError(f"{problem}; {KINDS[kind].fix}")
        self.found.append(problem)

    def left_out(self) -> str:
        """What was left out, by kind, such as `2 x empty-box, 1 x left-out-file (.DS_Store)`; empty if nothing was."""
        counts: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.found:
            if problem.kind in LEFT_OUT:
                counts[problem.kind].append(problem)
        parts = [f"{len(rows)} x {kind} (such as {Path(rows[0].file).name})" for kind, rows in counts.items()]
        return ", ".join(parts)

    def log_summary(self, name: str) -> None:
        """One line for each kind of error or warning, with its count and the first example."""
        groups: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.found:
            groups[problem.kind].append(problem)
        for kind, rows in groups.items():
            if KINDS[kind].severity != "info":
                log.warning(
                    "%s: %d x %s, such as %s; `detrscope data check` lists all",
                    name,
                    len(rows),
                    kind,
                    rows[0],
                )
