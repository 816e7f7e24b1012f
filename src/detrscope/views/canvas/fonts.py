"""Which typeface has a character: DejaVu Sans, else one of the system's, else none and the character is spelt out.

DejaVu Sans, which matplotlib brings along, has no Chinese, Japanese, Korean, Thai ... Drawn with it such a name is a
row of empty boxes, the same for every class.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from detrscope.console import log
from detrscope.core.safe_text import escape_text

HOUSE = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
# Looked at first, as they are made for running text and have most characters: of Linux, macOS and Windows.
PREFERRED = (
    "notosanscjk",
    "sourcehan",
    "wqy",
    "pingfang",
    "hiragino",
    "msyh",
    "simhei",
    "yugoth",
    "malgun",
    "arial",
)
NO_LETTERS = ("lastresort", "adobeblank")  # they claim every character and draw a box, or nothing
REMEDY = "install one that has it, such as Noto Sans CJK"


def runs(text: str) -> Iterator[tuple[str, Path]]:
    r"""Yield pieces of the text, each with the typeface that has its characters.

    What no typeface has is spelt out, such as `\u732b`; texts that differ stay different.
    """
    plain = drawn(text)
    for face, characters in groupby(plain, key=lambda c: _face_of(c) or HOUSE):
        yield "".join(characters), face


def class_label(name: str, category_id: int) -> str:
    """Return the name of a class, or its id where no typeface has the characters of the name."""
    missing = [c for c in escape_text(name) if not c.isascii() and _is_lost(c)]
    for character in missing:
        _warn(character)
    return f"class {category_id}" if missing else name


def drawn(text: str, *, keep: str = "") -> str:
    """Return the text as it can be drawn: controls and characters that no typeface has are spelt out."""
    shown = escape_text(text, keep=keep)
    return shown if shown.isascii() else "".join(_spelt(c) if c not in keep else c for c in shown)


def letter(figure: Figure) -> None:
    """Give every text of a figure the typefaces that it needs, and take its dollars and backslashes as they are."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        letter_text(text)


def letter_text(text: Text) -> None:
    """Give one text the typefaces that it needs; `$` is no formula in the name of a class."""
    words = text.get_text()
    if not words:
        return
    text.set_parse_math(False)
    if (shown := drawn(words, keep="\n")) != words:
        text.set_text(shown)
    families = list(dict.fromkeys(_family(face) for _, face in runs(shown)))
    if families not in ([], [_family(HOUSE)]):
        text.set_fontfamily([_family(HOUSE), *(f for f in families if f != _family(HOUSE))])


def _spelt(character: str) -> str:
    if character.isascii() or _face_of(character):
        return character
    if not _is_lost(character):
        return ""
    _warn(character)
    return character.encode("unicode_escape").decode("ascii")


def _is_lost(character: str) -> bool:
    """Whether something is missing where no typeface has the character: marks that join or vary others are nothing."""
    return _face_of(character) is None and unicodedata.category(character) not in ("Cf", "Mn")


_told: set[str] = set()


def _warn(character: str) -> None:
    """Say once that characters are missing."""
    if not _told:
        log.warning(
            "no typeface here has '%s': classes named so are drawn as their ids; %s", character, REMEDY
        )
    _told.add(character)


@cache
def _face_of(character: str) -> Path | None:
    """Return the first typeface that has a character."""
    return next((face for face in (HOUSE, *_system()) if _has(face, character)), None)


def _has(face: Path, character: str) -> bool:
    font = _opened(face)
    return font is not None and bool(font.get_char_index(ord(character)))


@cache
def _opened(face: Path) -> FT2Font | None:
    """Open a typeface; None for one that is damaged, of fixed sizes (colour emoji), or without letters."""
    try:
        font = FT2Font(str(face))
    except Exception:  # whatever FreeType says of a stranger's file
        return None
    name = font.family_name.lower().replace(" ", "")
    return font if font.scalable and not name.startswith(NO_LETTERS) else None


@cache
def _system() -> tuple[Path, ...]:
    """Return the files of the system's typefaces, the likely ones first."""
    files = sorted(Path(file) for file in font_manager.findSystemFonts())

    def rank(file: Path) -> int:
        name = file.name.lower().replace("-", "").replace(" ", "")
        return next((i for i, start in enumerate(PREFERRED) if start in name), len(PREFERRED))

    return tuple(sorted(files, key=rank))


@cache
def _family(face: Path) -> str:
    """Return the name under which matplotlib knows a typeface, made known to it if need be."""
    if face == HOUSE:
        return "DejaVu Sans"
    font_manager.fontManager.addfont(str(face))
    return str(font_manager.FontProperties(fname=str(face)).get_name())
