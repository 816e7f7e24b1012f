"""The page of `data check`: every kind of problem, with pictures of its first examples."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.data.check import Report
from detrscope.data.image_reader import read_image
from detrscope.data.validation_log import Problem
from detrscope.views.check_page import Example, ProblemGroup, check_page_html, thumbnail

EXAMPLES = 12  # of each kind
RANK = {"error": 0, "warning": 1, "info": 2}


def write_check_page(report: Report, path: str | Path) -> Path:
    """Write the page of a report.

    Args:
        report: of `check`.
        path: HTML file.
    """
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in report.problems:
        kinds[problem.kind].append(problem)
    groups = [
        ProblemGroup(
            kind, rows[0].severity, rows[0].fix, len(rows), [_example(p, report) for p in rows[:EXAMPLES]]
        )
        for kind, rows in sorted(kinds.items(), key=lambda item: (RANK[item[1][0].severity], item[0]))
    ]
    lines = [
        f"{s.split}: {s.images} images, {s.images_without_boxes} without boxes; {s.boxes} boxes of"
        f" {len(s.classes)} classes (small {s.small}, medium {s.medium}, large {s.large}); left out:"
        f" {s.left_out or 'nothing'}"
        for s in report.statistics
    ]
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(check_page_html(report.source, lines, groups), encoding="utf-8")
    return Path(path)


def _example(problem: Problem, report: Report) -> Example:
    where = f"{problem.split}: {Path(problem.file).name}"
    if problem.annotation is not None:
        where += f", annotation {problem.annotation}" + (f" ({problem.category})" if problem.category else "")
    picture = None
    if Path(problem.file).suffix.lower() != ".json" and Path(problem.file).is_file():
        try:
            pixels = read_image(problem.file).permute(1, 2, 0).contiguous().numpy()
            box = report.boxes.get((problem.split, problem.annotation))
            picture = thumbnail(pixels, box)
        except UserError:
            picture = None  # that is what the problem is about
    return Example(where, problem.reason, picture)
