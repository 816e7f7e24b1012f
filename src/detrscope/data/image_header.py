"""Open image files: formats, pixel limit, size and EXIF orientation from the header."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from detrscope.core.errors import UserError
from detrscope.data.image_files import FORMATS, exists, is_regular

MAX_PIXELS = "DETRSCOPE_MAX_PIXELS"  # environment variable: pixels of the largest image that is decoded
_LIMIT = threading.Lock()  # Pillow's limit is one for all threads
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright, 2..8 are the other flips and turns
_PNG_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")


@dataclass(frozen=True)
class FileSize:
    """Size and orientation in the header of an image file."""

    width: int  # pixels, upright
    height: int
    orientation: int  # EXIF, 1..8

    @property
    def raw(self) -> tuple[int, int]:
        """Width and height as stored, before the EXIF turn."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_size(source: str | Path | bytes) -> FileSize:
    """Read upright size and EXIF orientation from the header alone, about 50 microseconds a file.

    Args:
        source: path, or the bytes of an image file.

    Raises:
        UserError: the file is missing, empty or not an image. (A truncated one still has a header.)
    """
    file: Path | io.BytesIO
    if isinstance(source, bytes):
        file, name, is_empty = io.BytesIO(source), f"image in {len(source)} bytes", not source
    else:
        file, name, is_empty = Path(source), str(source), _is_empty(Path(source))
    try:
        with open_image(file, name) as image:
            # Asked for EXIF that it has not met yet, Pillow decodes a PNG to the end; none is written behind
            # the pixels.
            known = image.format != "PNG" or not image.info.keys().isdisjoint(_PNG_EXIF)
            orientation = exif_orientation(image) if known else 1
            width, height = image.size
            # Pillow rotates TIFF itself and reports the rotated size.
            turned = orientation >= 5 and image.format != "TIFF"
    except UserError:
        raise
    except Exception as error:
        raise unreadable(name, error, empty=is_empty) from None
    return FileSize(height, width, orientation) if turned else FileSize(width, height, orientation)


def max_image_pixels() -> int:
    """Return the most pixels of an image that is decoded: Pillow's limit, or that of the environment.

    Raises:
        UserError: the environment variable is not a number of pixels.
    """
    text = os.environ.get(MAX_PIXELS, "").strip()
    if not text:
        return Image.MAX_IMAGE_PIXELS or sys.maxsize
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and int(text) > 0):
        raise UserError(f"{MAX_PIXELS}={text[:40]!r} in the environment: expected a number of pixels")
    return int(text)


def open_image(source: Path | io.BytesIO, name: str) -> Image.Image:
    """Open an image of a format that Pillow decodes by itself and read its header.

    Raises:
        UserError: it is not a regular file, or has too many pixels.
        Exception: whatever Pillow raises for a damaged header; see `unreadable`.
    """
    if isinstance(source, Path) and exists(source) and not is_regular(source):
        raise UserError(f"{name}: not a regular file; expected an image file")
    limit = max_image_pixels()
    try:
        # Above its own limit Pillow refuses before the size is known; the check below decides.
        with _pillow_limit(limit):
            image = Image.open(source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "", limit) from None
    if image.width * image.height > limit:
        size = f": {image.width}x{image.height}"
        image.close()
        raise _too_large(name, size, limit)
    return image


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1..8."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF says nothing about the pixels, which may be fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def unreadable(name: str, error: Exception, *, empty: bool = False) -> UserError:
    """Return the error for an image that could not be opened or decoded.

    Args:
        name: Name of the image.
        error: Exception of Pillow or of the file system.
        empty: Whether the file has no bytes.
    """
    if empty:
        return UserError(f"{name}: the file is empty")
    if isinstance(error, FileNotFoundError):
        return UserError(f"{name}: no such image file")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{name}: not an image that can be read")
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"{name}: cannot be read ({error.strerror})")
    if "truncated" in str(error):
        return UserError(f"{name}: the image is truncated")
    return UserError(f"{name}: the image is damaged ({error})")


def _too_large(name: str, size: str, limit: int) -> UserError:
    return UserError(
        f"{name}: too many pixels{size}; the limit is {limit:,}; make it smaller, cut it into tiles, or set "
        f"{MAX_PIXELS} in the environment to decode it"
    )


@contextmanager
def _pillow_limit(limit: int) -> Iterator[None]:
    """Raise Pillow's limit for one header where the environment allows more; restore it afterwards."""
    before = Image.MAX_IMAGE_PIXELS
    if before is None or limit <= before:
        yield
        return
    with _LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = limit
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except (OSError, ValueError):
        return False
