"""The one image reader: upright RGB pixels of 8 bits from files, URLs, bytes, PIL images, arrays and tensors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detrscope.core.download import download, is_url, shown_url
from detrscope.core.errors import UserError
from detrscope.data.image_files import exists, is_regular
from detrscope.data.image_header import exif_orientation, open_image, unreadable

Channels = Literal["rgb", "bgr"]
ImageSource = str | Path | bytes | Image.Image | np.ndarray | Tensor

URL_TIMEOUT = 30.0  # seconds without an answer
URL_WHOLE_TIMEOUT = 300.0  # seconds for the whole download
URL_LARGEST = 256 << 20  # bytes of an image file
_SIXTEEN_BIT = (
    "I;16",
    "I;16L",
    "I;16B",
    "I;16N",
    "I",
)  # "I": Pillow's mode of some 16-bit PNG and TIFF files


def read_image(source: ImageSource, *, channels: Channels = "rgb") -> Tensor:
    """Read an image as uint8 [3, H, W], RGB and upright.

    EXIF orientation is applied. Alpha and transparent palette entries are composited over white. 16 bit is
    divided by 257 (0..65535 -> 0..255), never stretched to the range found; floats must be 0..1. Grey is
    repeated. CMYK, YCbCr and LAB become RGB by Pillow's plain formulas; ICC profiles are ignored. Of an
    animation the first frame is read.

    Args:
        source: Path, http(s) URL, bytes of an image file, PIL image, array [H, W], [H, W, 1..4], or tensor [H, W],
            [1..4, H, W]. Two channels are grey and alpha, four are colour and alpha.
        channels: Order of the colours in an array or tensor ("bgr" is that of OpenCV); other sources know theirs.

    Returns:
        uint8 [3, H, W]. In memory the three colours of a pixel are adjacent, which torchvision resizes fastest.

    Raises:
        UserError: the file is missing, empty, truncated or not an image, or the array has no valid shape or range;
            the source is named.
    """
    return read_upright(source, channels=channels)[0]


def read_upright(source: ImageSource, *, channels: Channels = "rgb") -> tuple[Tensor, int]:
    """Read an image as `read_image` does: [3, H, W] uint8, and the EXIF orientation (1..8) of its file.

    Raises:
        UserError: as `read_image`.
    """
    if channels not in ("rgb", "bgr"):
        raise UserError(f"channels='{channels}': expected 'rgb' or 'bgr'")
    if isinstance(source, Tensor):
        array = (source.float() if source.is_floating_point() else source).detach().cpu().numpy()
        if array.ndim == 3:
            shape = list(array.shape)
            _refuse(array.shape[0] not in (1, 2, 3, 4), f"tensor of shape {shape}", "[1..4, H, W]")
            array = np.moveaxis(array, 0, -1)
        return _from_array(array, channels, "tensor"), 1
    if isinstance(source, np.ndarray):
        return _from_array(source, channels, "array"), 1
    if isinstance(source, Image.Image):
        return _decoded(source.copy(), "PIL image")
    if isinstance(source, bytes | bytearray):
        return _decoded_bytes(bytes(source), f"image in {len(source)} bytes")
    if isinstance(source, str) and is_url(source):
        parts = download(
            source, limit=URL_LARGEST, answer_timeout=URL_TIMEOUT, whole_timeout=URL_WHOLE_TIMEOUT
        )
        return _decoded_bytes(b"".join(parts), shown_url(source))
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        return _decoded_bytes(_bytes_of(path), str(path))
    raise UserError(
        f"cannot read an image from {type(source).__name__}; give a path, URL, bytes, PIL image or array"
    )


def _bytes_of(path: Path) -> bytes:
    try:
        if exists(path) and not is_regular(path):
            reason = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{path}: {reason}; expected an image file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(str(path), error) from None


def _decoded_bytes(data: bytes, name: str) -> tuple[Tensor, int]:
    try:
        image = open_image(io.BytesIO(data), name)
    except UserError:
        raise
    except Exception as error:
        raise unreadable(name, error, empty=not data) from None
    return _decoded(image, name)


def _decoded(image: Image.Image, name: str) -> tuple[Tensor, int]:
    """Return the upright pixels of a PIL image, which may be changed in place, and the orientation it was stored in."""
    try:
        before = exif_orientation(image) if image.format == "TIFF" else 1  # Pillow turns TIFF by itself
        image.load()
        after = exif_orientation(image)
        if after != 1:
            ImageOps.exif_transpose(image, in_place=True)
        rgb = image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image, name)
        array = np.array(rgb)  # [H, W, 3]
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise unreadable(name, error) from None
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
    """Return uint8 [3, H, W] of an array [H, W] or [H, W, 1..4] of any valid type."""
    shape = f"{name} of shape {list(array.shape)}"
    valid = "[H, W] or [1..4, H, W]" if name == "tensor" else "[H, W] or [H, W, 1..4]"
    if array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4) and array.shape[0] in (1, 3, 4):
        raise UserError(
            f"{shape}: channels come last in an array; pass torch.from_numpy(array) or move the axis"
        )
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 2, 3, 4))
    _refuse(not fits, shape, valid)
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


def _refuse(wrong: bool, value: str, expected: str) -> None:
    if wrong:
        raise UserError(f"{value}: expected {expected}")
