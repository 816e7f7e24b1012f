"""What the live page may ask for, and the reading of its forms."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import HTTPException, Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from detrscope.core.edit_file import edits_from_json
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.explorer.payload import Payload

MAX_UPLOAD = 32 << 20  # bytes of a picture
MAX_EDITS_TEXT = 1 << 20  # characters
MAX_EDITS = 200
Picture = str | bytes  # a name that was offered, or an uploaded file
SWAP = re.compile(r"swap\s+(\S+)(?:\s+(\S+))?")  # site, and part of its attention


@dataclass(frozen=True)
class TraceRequest:
    """A request for a trace.

    Attributes:
        picture: picture to trace.
        edits: edits of the model.
        swaps: sites, and parts of their attention, that take those of another picture.
        other: the other picture.
    """

    picture: Picture
    edits: tuple[Edit, ...] = ()
    swaps: tuple[tuple[str, str | None], ...] = ()
    other: Picture | None = None


Tracer = Callable[[TraceRequest], TraceData]


class ShownRun(Protocol):
    """A recorded training that the server offers."""

    def info(self) -> dict[str, Any]:
        """Return names, steps and curves as JSON values, as they are now."""

    def base(self, image: int) -> Payload:
        """Return a probe image without attention."""

    def step(self, image: int, step: int) -> Payload:
        """Return a probe image at a snapshot."""


@dataclass(frozen=True)
class Offer:
    """What the server offers.

    Attributes:
        model: name of the model, for the commands that the page gives.
        names: pictures and traces by name.
        tracer: traces one of them, or an uploaded file, with edits and swaps.
        can_edit: whether there is a model, which can open other pictures and apply edits.
        runs: recorded trainings, read anew where they go on.
    """

    model: str
    names: tuple[str, ...]
    tracer: Tracer
    can_edit: bool
    runs: tuple[ShownRun, ...] = ()


async def read_form(request: Request, offer: Offer) -> TraceRequest:
    """Return what a request asks for.

    Raises:
        HTTPException: a form that is not one, too large, or names what was not offered.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "expected a length of the request")
    if int(length) > 2 * MAX_UPLOAD + MAX_EDITS_TEXT:
        raise HTTPException(413, f"expected a picture of at most {MAX_UPLOAD >> 20} MiB")
    try:
        async with request.form(max_files=2, max_fields=4, max_part_size=MAX_UPLOAD) as form:
            picture = await _picture_in(form, offer, "name", "file")
            if picture is None:
                raise HTTPException(422, "expected a name of an offered picture, or a file")
            texts = _edit_texts_in(form.get("edits", "[]"))
            swaps = [match for text in texts if (match := SWAP.fullmatch(text.strip()))]
            edits = [text for text in texts if not SWAP.fullmatch(text.strip())]
            other = await _picture_in(form, offer, "other_name", "other_file")
            if swaps and other is None:
                raise HTTPException(422, "swap: expected the other picture, a name or a file")
            return TraceRequest(
                picture, _edits_of(edits), tuple((match[1], match[2]) for match in swaps), other
            )
    except (MultiPartException, UnicodeDecodeError) as error:
        raise HTTPException(422, f"the form cannot be read ({error})") from None


async def _picture_in(form: FormData, offer: Offer, name_field: str, file_field: str) -> Picture | None:
    """Return the picture that a form names or has in it; None where it has neither, or both.

    Raises:
        HTTPException: a name that was not offered, or a file where there is no model.
    """
    name, file = form.get(name_field), form.get(file_field)
    if (name is None) == (file is None):
        return None
    if isinstance(file, UploadFile):
        if not offer.can_edit:
            raise HTTPException(422, "there is no model here that could look at a new picture")
        data = await file.read(MAX_UPLOAD + 1)
        if len(data) > MAX_UPLOAD:
            raise HTTPException(413, f"expected a picture of at most {MAX_UPLOAD >> 20} MiB")
        return data
    if isinstance(name, str) and name in offer.names:
        return name
    raise HTTPException(422, "this picture was not offered")


def _edit_texts_in(text: object) -> list[str]:
    """Return the texts of the edits of a request.

    Raises:
        HTTPException: other than a list of texts in the grammar.
    """
    if not isinstance(text, str) or len(text) > MAX_EDITS_TEXT:
        raise HTTPException(422, f"edits: expected JSON of at most {MAX_EDITS_TEXT} characters")
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise HTTPException(422, "edits: not JSON") from None
    if not isinstance(tree, list) or len(tree) > MAX_EDITS or not all(isinstance(one, str) for one in tree):
        raise HTTPException(422, f"edits: expected a list of at most {MAX_EDITS} texts")
    return tree


def _edits_of(texts: Sequence[str]) -> tuple[Edit, ...]:
    """Return the edits of texts in the grammar of `core.edit_text`.

    Raises:
        HTTPException: a text that is not in the grammar.
    """
    try:
        return edits_from_json([*texts], "edits")
    except UserError as error:
        raise HTTPException(422, str(error)) from None
