"""Grammar of edits: text such as `decoder.*.cross: heads 2,3 x0` to edits, for the command line, files and the page.

SITE: [heads N,N-N] [queries N] [keys N] [points N] [levels N] xFACTOR
SITE: [heads N] [queries N] [keys N] [points N] [levels N] [region x0,y0,x1,y1] hide | favour [+SCORE]
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from detrscope.core.edits import SELECTIONS, Edit, Gain, KeyBias
from detrscope.core.errors import UserError, suggest_nearest

SINGULAR = {"head": "heads", "query": "queries", "key": "keys", "point": "points", "level": "levels"}
ACTIONS = "x0 (mute), x0.5 ..., hide, favour +1 ..."
EXAMPLE = "for example 'decoder.*.cross: heads 2,3 x0' or 'encoder.*.self: hide region 120,80,300,260'"
MAX_NUMBERS = 1_000_000  # in one list
FAVOUR = ("favour", "favor")
FACTOR = re.compile(r"x(\S+)")
SCORE = re.compile(r"[+-]\d\S*|[+-]\.\d\S*")


def parse_edit(text: str) -> Gain | KeyBias:
    """Return the edit that a text describes; `edit.describe()` gives the text again.

    Raises:
        UserError: text that is not in the grammar; the word is named, with what is valid there.
    """
    site, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or not site or not rest or " " in site:
        raise UserError(f"edit '{text}': expected SITE: WHAT; {EXAMPLE}")
    words = re.sub(r"\s*,\s*", ",", rest).split()
    selections: dict[str, tuple[int, ...]] = {}
    region: tuple[float, float, float, float] | None = None
    action: str | None = None
    factor, score = 0.0, None
    while words:
        word = words.pop(0)
        name = SINGULAR.get(word, word)
        if name in SELECTIONS:
            if name in selections:
                raise UserError(f"edit '{text}': {name} are given twice")
            selections[name] = _numbers(text, name, words)
        elif word == "region":
            if region is not None:
                raise UserError(f"edit '{text}': one region at a time; give another edit for another region")
            region = parse_region(words.pop(0) if words else "", f"edit '{text}'")
        elif word == "hide" or word in FAVOUR or FACTOR.fullmatch(word):
            if action is not None:
                raise UserError(f"edit '{text}': one action at a time, found '{action}' and '{word}'")
            action = word
            if match := FACTOR.fullmatch(word):
                factor = _number(text, match[1])
        elif action in FAVOUR and score is None and SCORE.fullmatch(word):
            score = _number(text, word)
        else:
            valid = (*SELECTIONS, "region", "hide", "favour")
            raise UserError(
                f"edit '{text}': '{word}': {suggest_nearest(word, valid)}, or a factor such as x0"
            )
    if action is None:
        raise UserError(f"edit '{text}': expected what to do: {ACTIONS}")
    if FACTOR.fullmatch(action):
        if region is not None:
            raise UserError(f"edit '{text}': a region takes hide or favour, not a factor")
        return Gain(site, factor, **selections)
    if region is None and not selections.keys() & {"keys", "levels", "points"}:
        raise UserError(
            f"edit '{text}': {action} what? expected a region, keys, levels or points; x0 mutes all"
        )
    if action in FAVOUR and score is None:
        score = 1.0
    return KeyBias(site, score, region, **selections)


def parse_region(text: str, name: str) -> tuple[float, float, float, float]:
    """Return `x0,y0,x1,y1` as numbers: pixels of the original image.

    Raises:
        UserError: other than four finite numbers, or corners in the wrong order; begins with `name`.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{name}: region '{text}': expected four numbers x0,y0,x1,y1 in pixels of the image"
        ) from None
    if not (all(map(math.isfinite, (x0, y0, x1, y1))) and x0 < x1 and y0 < y1):
        raise UserError(f"{name}: region '{text}': expected x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def edits_of(edits: Sequence[Edit | str]) -> tuple[Edit, ...]:
    """Return edits of which some are given as text.

    Raises:
        UserError: text that is not in the grammar.
    """
    return tuple(parse_edit(edit) if isinstance(edit, str) else edit for edit in edits)


def _numbers(text: str, name: str, words: list[str]) -> tuple[int, ...]:
    """Take a list such as `2,3,5-7` from the words; a negative number counts from the end."""
    given = words.pop(0) if words else ""
    found: list[int] = []
    for part in given.split(","):
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})|(-?\d{1,9})", part)
        if match is None:
            raise UserError(f"edit '{text}': {name} '{given}': expected numbers such as 2,3 or 0-5")
        first, last = int(match[1] or match[3]), int(match[2] or match[3])
        if last < first or last - first >= MAX_NUMBERS:
            raise UserError(f"edit '{text}': {name} '{part}': expected a range such as 0-5")
        found.extend(range(first, last + 1))
    return tuple(found)


def _number(text: str, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"edit '{text}': '{word}': expected a number")
    return number
