"""Read XML of strangers: no document types, whose entities expand to gigabytes or name other files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from detrscope.core.errors import UserError
from detrscope.core.text_files import read_bytes

_HEAD = 4096  # bytes in which the root element begins
_ROOT = re.compile(rb"<([A-Za-z_][\w.:-]*)")
_BEFORE_ROOT = re.compile(rb"<\?.*?\?>|<!--.*?-->", re.DOTALL)


class _NoDoctype(ElementTree.TreeBuilder):
    """Builder that refuses document types: entities are declared there, and annotations need none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise UserError("a document type declaration is not allowed")


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file.

    Raises:
        UserError: it cannot be read, is not XML, or declares a document type.
    """
    data = read_bytes(path)
    try:
        return ElementTree.XML(data, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError, UserError) as error:
        raise UserError(f"{path}: not valid XML ({error})") from None


def root_tag(path: Path) -> str:
    """Return the name of the root element by the first bytes of a file; empty where they do not show it."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return ""
    match = _ROOT.search(_BEFORE_ROOT.sub(b"", head))
    return match[1].decode("ascii", "replace") if match else ""
