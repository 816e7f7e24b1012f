"""Typefaces for any script: DejaVu Sans, else one of the system's, else the character is escaped.

DejaVu Sans, which comes with matplotlib, has no Chinese, Japanese, Korean, Thai ...: such class names would all be the
same row of empty boxes.
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

DEFAULT_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
# Tried first, as they are made for running text and have most characters: of Linux, macOS and Windows.
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
PLACEHOLDER_FONTS = ("lastresort", "adobeblank")  # claim every character and draw a box, or nothing
REMEDY = "install one that has it, such as Noto Sans CJK"


def font_runs(text: str) -> Iterator[tuple[str, Path]]:
    r"""Yield pieces of the text, each with the typeface that has its characters.

    Characters that no typeface has are escaped, such as `\u732b`; texts that differ stay different.
    """
    plain = drawable_text(text)
    for face, characters in groupby(plain, key=lambda c: _face_of(c) or DEFAULT_FONT):
        yield "".join(characters), face


def drawable_class_label(name: str, category_id: int) -> str:
    """Return the name of a class, or its id where no typeface has the characters of the name."""
    missing = [c for c in escape_text(name) if not c.isascii() and _is_missing(c)]
    for character in missing:
        _warn(character)
    return f"class {category_id}" if missing else name


def drawable_text(text: str, *, keep: str = "") -> str:
    """Return the text as it can be drawn: controls and characters that no typeface has are escaped."""
    shown = escape_text(text, keep=keep)
    return shown if shown.isascii() else "".join(_escaped(c) if c not in keep else c for c in shown)


def set_fonts(figure: Figure) -> None:
    """Set the typefaces that each text of a figure needs, and take its dollars and backslashes literally."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        set_text_font(text)


def set_text_font(text: Text) -> None:
    """Set the typefaces that one text needs; `$` starts no formula in the name of a class."""
    words = text.get_text()
    if not words:
        return
    text.set_parse_math(False)
    if (shown := drawable_text(words, keep="\n")) != words:
        text.set_text(shown)
    families = list(dict.fromkeys(_family(face) for _, face in font_runs(shown)))
    if families not in ([], [_family(DEFAULT_FONT)]):
        text.set_fontfamily([_family(DEFAULT_FONT), *(f for f in families if f != _family(DEFAULT_FONT))])


def _escaped(character: str) -> str:
    if character.isascii() or _face_of(character):
        return character
    if not _is_missing(character):
        return ""
    _warn(character)
    return character.encode("unicode_escape").decode("ascii")


def _is_missing(character: str) -> bool:
    """Return whether no typeface has a visible character; joiners and combining marks do not count."""
    return _face_of(character) is None and unicodedata.category(character) not in ("Cf", "Mn")


_warned: set[str] = set()


def _warn(character: str) -> None:
    """Warn once that characters are missing."""
    if not _warned:
        log.warning(
            "no typeface here has '%s': classes named so are drawn as their ids; %s", character, REMEDY
        )
    _warned.add(character)


@cache
def _face_of(character: str) -> Path | None:
    """Return the first typeface that has a character."""
    return next((face for face in (DEFAULT_FONT, *_system()) if _has(face, character)), None)


def _has(face: Path, character: str) -> bool:
    font = _opened(face)
    return font is not None and bool(font.get_char_index(ord(character)))


@cache
def _opened(face: Path) -> FT2Font | None:
    """Open a typeface; None for one that is damaged, of fixed sizes (colour emoji), or without letters."""
    try:
        font = FT2Font(str(face))
    except Exception:  # FreeType raises various types on damaged files
        return None
    name = font.family_name.lower().replace(" ", "")
    return font if font.scalable and not name.startswith(PLACEHOLDER_FONTS) else None


@cache
def _system() -> tuple[Path, ...]:
    """Return the files of the system's typefaces, `PREFERRED` first."""
    files = sorted(Path(file) for file in font_manager.findSystemFonts())

    def rank(file: Path) -> int:
        name = file.name.lower().replace("-", "").replace(" ", "")
        return next((i for i, start in enumerate(PREFERRED) if start in name), len(PREFERRED))

    return tuple(sorted(files, key=rank))


@cache
def _family(face: Path) -> str:
    """Return the name under which matplotlib knows a typeface, registering it if need be."""
    if face == DEFAULT_FONT:
        return "DejaVu Sans"
    font_manager.fontManager.addfont(str(face))
    return str(font_manager.FontProperties(fname=str(face)).get_name())
