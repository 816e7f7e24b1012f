"""Problems of datasets: the table of their kinds, and the log that readers report to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from detrscope.console import log
from detrscope.core.errors import UserError

Severity = Literal["error", "warning", "info"]


class Kind(NamedTuple):
    """Severity and remedy of a kind of problem."""

    severity: Severity
    stops: bool  # whether nothing is read until it is corrected
    fix: str  # what to do


# What to do about each kind.
_STOPPING = {  # errors: nothing is read until they are corrected
    "bad-id": "give images, annotations and categories integer ids",
    "bad-value": "write the value that is expected",
    "bad-label": "correct or delete that line or object",
    "labels-in-two-places": "delete the one that is out of date",
    "no-labels": "put the labels where they are expected; an image without objects has an empty label file",
    "duplicate-image-id": "give every image an id of its own",
    "size-mismatch": "use the images that were annotated, or scale width, height and boxes",
    "undeclared-category": "declare the category, or delete the annotation",
}
_ERRORS = {  # the data cannot be used
    "missing-image": "add the file, or remove the image and its annotations",
    "unreadable-image": "replace the file, or remove the image and its annotations",
    "unknown-image": "declare the image, or delete the annotation (it is dropped)",
    "bad-box": "write four finite numbers x, y, width, height (the annotation is dropped)",
    "empty-box": "draw the box again, or delete the annotation (AP counts it, training does not)",
    "box-outside": "draw the box again, or delete the annotation (AP counts it, training does not)",
}
_WARNINGS = {  # the data is used, by a rule that may surprise
    "box-clipped": "none needed: models learn from the part inside the image; AP counts the whole box",
    "box-like-xyxy": "write x, y, width, height instead of two corners",
    "exif-turned": "none needed: boxes are turned with the pixels",
    "size-rounded": "none needed: the size of the file is used",
    "duplicate-annotation-id": "none needed: evaluation counts annotations anew",
    "box-like-fractions": "multiply by the width and height of the image: COCO counts pixels",
    "labels-like-pixels": "divide by the width and height of the image: YOLO has fractions",
    "unused-shape": "draw a box, polygon, ellipse or mask with a label: nothing else becomes an object",
    "rotated-box": "none needed: the upright box around it is used",
    "unlabelled-task": "label its image, or submit it without a region where there is no object: it is not read",
    "unused-annotation": "none needed: one annotation of each task is used, the ground truth or the last",
    "corners-reversed": "none needed: the corners are put in order",
    "one-file-two-images": "give every image a file of its own",
    "one-label-two-images": "give every image a name of its own, endings apart",
    "unused-images": "annotate them, declare them as images without boxes, or move them",
    "duplicate-class-name": "give every category a name of its own",
    "unused-file": "name it as its image or its split, or delete it",
    "duplicate-box": "delete one of the two",
    "duplicate-image": "keep one of the two",
    "image-in-two-splits": "take it out of one split: the score would be too good",
    "similar-image": "keep one of the two",
    "similar-image-in-two-splits": "take it out of one split: the score would be too good",
    "tiny-box": "look at them: if they are right, enlarge the images; nothing is learned from so few pixels",
    "constant-area": "write the area of each object: AP by size and crowds follow it",
    "classes-permuted": "use one list of categories for all splits: they are matched by name here, by id elsewhere",
    "classes-differ": "use one list of categories for all splits",
    "class-without-boxes": "add examples or remove the category: it cannot be learned",
    "more-objects-than-queries": "use more queries: every object needs one",
}
_INFOS = {
    "missing-split": "none needed: a split that does not exist is not read",
    "giant-box": "look at it: objects that fill their image are rare",
    "class-not-evaluated": "none needed: it will have no AP in this split",
    "exif-ambiguous": "check an image with `detrscope data show`: boxes are read as upright",
    "text-ids": "none needed: they are read, and written, as numbers",
    "missing-area": "none needed: the area of the box is used",
    "left-out-file": "none needed: hidden and system files and other formats are not read",
    "image-without-boxes": "none needed: images without objects are kept as negatives",
}
_GROUPS: tuple[tuple[Severity, dict[str, str]], ...] = (
    ("error", _STOPPING),
    ("error", _ERRORS),
    ("warning", _WARNINGS),
    ("info", _INFOS),
)
KINDS = {
    kind: Kind(severity, fixes is _STOPPING, fix)
    for severity, fixes in _GROUPS
    for kind, fix in fixes.items()
}
LEFT_OUT = (  # kinds whose annotation or file is not used
    "unknown-image",
    "bad-box",
    "empty-box",
    "box-outside",
    "unused-shape",
    "unlabelled-task",
    "unused-annotation",
    "unused-file",
    "left-out-file",
    "missing-split",
)


@dataclass(frozen=True)
class Problem:
    """One problem and where it is."""

    kind: str  # a key of KINDS
    split: str
    file: str  # path of the image, or of the annotations where no image is meant
    reason: str
    annotation: int | None = None  # id
    category: str | None = None  # name, or id where there is no name
    image: int | None = None  # id, where the file alone does not say which

    @property
    def severity(self) -> Severity:
        """Severity of its kind."""
        return KINDS[self.kind].severity

    @property
    def fix(self) -> str:
        """Remedy of its kind."""
        return KINDS[self.kind].fix

    def __str__(self) -> str:
        where = self.file if self.annotation is None else f"{self.file}: annotation {self.annotation}"
        return f"{where}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict with severity and fix."""
        return {**asdict(self), "severity": self.severity, "fix": self.fix}


@dataclass
class ValidationLog:
    """Problems that a reader reports. Strict: one that stops is raised as a UserError; else all are collected."""

    split: str
    strict: bool = True
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, kind: str, file: object, reason: str, annotation: int | None = None, category: str | None = None
    ) -> None:
        """Report a problem.

        Raises:
            UserError: it is of a kind that stops, and the log is strict.
        """
        problem = Problem(kind, self.split, str(file), reason, annotation, category)
        if self.strict and KINDS[kind].stops:
            raise UserError(f"{problem}; {KINDS[kind].fix}")
        self.problems.append(problem)

    def left_out(self) -> str:
        """Return what was left out by kind, such as `2 x empty-box (such as 7.jpg)`; empty where nothing was."""
        groups = {k: rows for k, rows in self._by_kind().items() if k in LEFT_OUT}
        return ", ".join(
            f"{len(rows)} x {k} (such as {Path(rows[0].file).name})" for k, rows in groups.items()
        )

    def log_summary(self, name: str) -> None:
        """Log one line for each kind of error or warning, with its count and the first example."""
        for kind, rows in self._by_kind().items():
            if KINDS[kind].severity != "info":
                text = "%s: %d x %s, such as %s; `detrscope data check` lists all"
                log.warning(text, name, len(rows), kind, rows[0])

    def _by_kind(self) -> dict[str, list[Problem]]:
        groups: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            groups[problem.kind].append(problem)
        return groups
