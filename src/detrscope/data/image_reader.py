"""The one image reader: whatever the source, the pixels come out upright, RGB, 8 bit."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from detrscope.core.download import download, is_url, shown_url
from detrscope.core.errors import UserError
from detrscope.data.image_files import FORMATS, exists, is_regular

Channels = Literal["rgb", "bgr"]
ImageSource = str | Path | bytes | Image.Image | np.ndarray | Tensor

MOST_PIXELS = "DETRSCOPE_MAX_PIXELS"  # of the environment: the largest image that is decoded
_LIMIT = threading.Lock()  # Pillow's limit is one for all threads
URL_TIMEOUT = 30.0  # seconds without an answer
URL_WHOLE_TIMEOUT = 300.0  # seconds for all of it
URL_LARGEST = 256 << 20  # bytes of an image file
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright, 2..8 are the other flips and turns
_PNG_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")
_SIXTEEN_BIT = (
    "I;16",
    "I;16L",
    "I;16B",
    "I;16N",
    "I",
)  # "I" is how Pillow opens some 16-bit PNG and TIFF files


def read_image(source: ImageSource, *, channels: Channels = "rgb") -> Tensor:
    """Any image as uint8 [3, H, W], RGB and upright.

    EXIF orientation is applied. Alpha and transparent palette entries are composited over white. 16 bit is
    divided by 257 (0..65535 -> 0..255), never stretched to the range found; floats must be 0..1. Grey is
    repeated. CMYK, YCbCr and LAB become RGB by Pillow's plain formulas; ICC profiles are ignored. Of an
    animation the first frame is read.

    Args:
        source: path, http(s) URL, the bytes of an image file, PIL image, array [H, W], [H, W, 1..4], or
            tensor [H, W], [1..4, H, W]. Two channels are grey and alpha, four are colour and alpha.
        channels: order of the colours in an array or tensor ("bgr" is what OpenCV gives). Others know their
            own.

    Returns:
        uint8 [3, H, W]. In memory the three colours of a pixel lie side by side, which torchvision resizes
        fastest.

    Raises:
        UserError: the file is missing, empty, truncated, not an image; or the array has no valid shape or
            range. The source is named.
    """
    return read_upright(source, channels=channels)[0]


def read_upright(source: ImageSource, *, channels: Channels = "rgb") -> tuple[Tensor, int]:
    """The same image as `read_image` gives, and the EXIF orientation (1..8) that its file had.

    Raises:
        UserError: as `read_image`.
    """
    if channels not in ("rgb", "bgr"):
        raise UserError(f"channels='{channels}': expected 'rgb' or 'bgr'")
    if isinstance(source, Tensor):
        array = (source.float() if source.is_floating_point() else source).detach().cpu().numpy()
        if array.ndim == 3:
            _refuse(
                array.shape[0] not in (1, 2, 3, 4), f"tensor of shape {list(array.shape)}", "[1..4, H, W]"
            )
            array = np.moveaxis(array, 0, -1)
        return _from_array(array, channels, "tensor"), 1
    if isinstance(source, np.ndarray):
        return _from_array(source, channels, "array"), 1
    if isinstance(source, Image.Image):
        return _decoded(source.copy(), "PIL image")
    if isinstance(source, bytes | bytearray):
        return _decoded_bytes(bytes(source), f"image in {len(source)} bytes")
    if isinstance(source, str) and is_url(source):
        return _decoded_bytes(_download(source), shown_url(source))
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        return _decoded_bytes(_bytes_of(path), str(path))
    raise UserError(
        f"cannot read an image from {type(source).__name__}; give a path, URL, bytes, PIL image or array"
    )


@dataclass(frozen=True)
class FileSize:
    """What the header of an image file says."""

    width: int  # upright
    height: int
    orientation: int  # EXIF, 1..8

    @property
    def raw(self) -> tuple[int, int]:
        """Width and height as stored, before the turn that EXIF asks for."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_size(path: str | Path) -> FileSize:
    """Upright size and EXIF orientation from the header alone, about 50 microseconds a file.

    Raises:
        UserError: the file is missing, empty or not an image. (A truncated one still has a header.)
    """
    path = Path(path)
    try:
        with _opened(path, str(path)) as image:
            # Asked for EXIF that it has not met yet, Pillow decodes a PNG to the end; none is written behind
            # the pixels.
            known = image.format != "PNG" or not image.info.keys().isdisjoint(_PNG_EXIF)
            orientation = _orientation(image) if known else 1
            width, height = image.size
            # Pillow turns TIFF by itself and tells the turned size.
            turned = orientation >= 5 and image.format != "TIFF"
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(str(path), error, empty=_is_empty(path)) from None
    return FileSize(height, width, orientation) if turned else FileSize(width, height, orientation)


def most_pixels() -> int:
    """The largest number of pixels of an image that is decoded: Pillow's limit, or the environment's."""
    asked = os.environ.get(MOST_PIXELS, "").strip()
    if not asked:
        return Image.MAX_IMAGE_PIXELS or sys.maxsize
    if not (asked.isascii() and asked.isdecimal() and 0 < len(asked) < 16 and int(asked) > 0):
        raise UserError(f"{MOST_PIXELS}={asked[:40]!r} in the environment: expected a number of pixels")
    return int(asked)


def _opened(source: Path | io.BytesIO, name: str) -> Image.Image:
    """An image whose header is read, of a format that Pillow decodes by itself, and not too large to decode.

    Raises:
        UserError: it is no regular file, or has too many pixels.
    """
    if isinstance(source, Path) and exists(source) and not is_regular(source):
        raise UserError(f"{name}: not a regular file; expected an image file")
    limit = most_pixels()
    try:
        # Above Pillow's own limit it refuses before the size is known; what may be decoded is decided below.
        with _pillows_limit(limit):
            image = Image.open(source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "", limit) from None
    if image.width * image.height > limit:
        size = f": {image.width}x{image.height}"
        image.close()
        raise _too_large(name, size, limit)
    return image


def _too_large(name: str, size: str, limit: int) -> UserError:
    return UserError(
        f"{name}: too many pixels{size}; the limit is {limit:,}; make it smaller, cut it into tiles, or set "
        f"{MOST_PIXELS} in the environment to decode it"
    )


@contextmanager
def _pillows_limit(limit: int) -> Iterator[None]:
    """Raise Pillow's limit for one header where the environment asks for more; the caller's is put back."""
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


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF says nothing about the pixels, which may be fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _bytes_of(path: Path) -> bytes:
    try:
        if exists(path) and not is_regular(path):
            reason = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{path}: {reason}; expected an image file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from None


def _download(url: str) -> bytes:
    return b"".join(
        download(url, limit=URL_LARGEST, answer_timeout=URL_TIMEOUT, whole_timeout=URL_WHOLE_TIMEOUT)
    )


def _decoded_bytes(data: bytes, name: str) -> tuple[Tensor, int]:
    try:
        image = _opened(io.BytesIO(data), name)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(name, error, empty=not data) from None
    return _decoded(image, name)


def _decoded(image: Image.Image, name: str) -> tuple[Tensor, int]:
    """Upright pixels of a PIL image that may be changed, and the orientation it came in."""
    try:
        before = _orientation(image) if image.format == "TIFF" else 1  # Pillow turns TIFF by itself
        image.load()
        after = _orientation(image)
        if after != 1:
            ImageOps.exif_transpose(image, in_place=True)
        rgb = image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image, name)
        array = np.array(rgb)  # [H, W, 3]
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise _unreadable(name, error) from None
    _refuse(array.size == 0, f"{name}: {rgb.width}x{rgb.height} pixels", "at least one pixel")
    return torch.from_numpy(array).permute(2, 0, 1), before if after == 1 else after  # [3, H, W]


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        wide = np.asarray(image)
        _refuse(wide.min() < 0 or wide.max() > 65535, f"{name}: values outside 0..65535", "8 or 16 bit")
        return Image.fromarray(_to_8_bit(wide.astype(np.uint16), name)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image, dtype=np.float32), name)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray, channels: Channels, name: str) -> Tensor:
    """[H, W] or [H, W, 1..4] of any valid type."""
    shape = f"{name} of shape {list(array.shape)}"
    valid = "[H, W] or [1..4, H, W]" if name == "tensor" else "[H, W] or [H, W, 1..4]"
    if array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4) and array.shape[0] in (1, 3, 4):
        raise UserError(
            f"{shape}: channels come last in an array; pass torch.from_numpy(array) or move the axis"
        )
    _refuse(
        array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)), shape, valid
    )
    _refuse(array.size == 0, shape, "at least one pixel")
    array = _to_8_bit(array, name)
    if array.ndim == 2:
        array = array[..., None]
    if channels == "bgr" and array.shape[2] >= 3:
        array = array[..., [2, 1, 0, *range(3, array.shape[2])]]
    if array.shape[2] == 3:
        return torch.from_numpy(np.array(array, order="C")).permute(2, 0, 1)
    mode = {1: "L", 2: "LA", 4: "RGBA"}[array.shape[2]]
    pixels = np.ascontiguousarray(array[..., 0] if mode == "L" else array)
    return _decoded(Image.fromarray(pixels), name)[0]


def _to_8_bit(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.floating):
        inside = bool(np.isfinite(array).all()) and array.min() >= 0 and array.max() <= 1
        _refuse(not inside, f"{name}: floats outside 0..1", "0..1, uint8 or uint16")
        return (array * 255 + 0.5).astype(np.uint8)
    _refuse(
        array.dtype != np.uint16,
        f"{name}: values of type {array.dtype}",
        "uint8, uint16, bool, or floats 0..1",
    )
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _refuse(wrong: bool, found: str, expected: str) -> None:
    if wrong:
        raise UserError(f"{found}: expected {expected}")


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except (OSError, ValueError):
        return False


def _unreadable(name: str, error: Exception, *, empty: bool = False) -> UserError:
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
