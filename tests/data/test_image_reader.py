"""The image reader: every image mode from every type of source."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.data.image_header import read_size
from detrscope.data.image_reader import read_image
from tests.support.datasets import noise_image, with_orientation


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def test_every_source_type_gives_equal_pixels(shared_data: Path) -> None:
    path = next((shared_data / "bccd" / "train").iterdir())
    pil = Image.open(path)
    rgb = np.asarray(pil)
    expected = read_image(path)
    assert expected.dtype == torch.uint8 and expected.shape == (3, 480, 640)
    for source in (str(path), path.read_bytes(), pil, rgb, torch.from_numpy(rgb.copy()).permute(2, 0, 1)):
        assert torch.equal(read_image(source), expected)
    assert torch.equal(read_image(rgb[..., ::-1], channels="bgr"), expected)
    assert torch.equal(read_image(expected[[2, 1, 0]], channels="bgr"), expected)
    assert not torch.equal(read_image(rgb[..., ::-1]), expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = noise_image(12, 8).resize((48, 32), Image.Resampling.BICUBIC)
    path = tmp_path / f"turned{suffix}"
    with_orientation(upright, path, orientation)
    found = read_image(path)
    assert found.shape == (3, 32, 48)
    assert (found.float() - pixels(upright).float()).abs().mean() < (8 if suffix == ".jpg" else 1e-6)
    size = read_size(path)
    assert (size.width, size.height) == (48, 32)
    assert size.orientation == orientation
    assert size.raw == ((32, 48) if orientation >= 5 else (48, 32))
    assert torch.equal(read_image(path.read_bytes()), found) and read_size(path.read_bytes()) == size
    with Image.open(path) as image:
        before = image.size
        assert torch.equal(read_image(image), found)
        assert image.size == before  # the caller's image was not changed


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own
def test_broken_exif_does_not_stop_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise_image(8, 6).save(path, exif=b"Exif\x00\x00MM\x00*broken")
    assert read_image(path).shape == (3, 6, 8)
    assert read_size(path).orientation == 1


def grey(value: int = 128) -> Image.Image:
    return Image.new("L", (5, 4), value)


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (5, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    if transparent:
        image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (grey(), (128, 128, 128)),
        (Image.new("1", (5, 4), 1), (255, 255, 255)),
        (Image.new("LA", (5, 4), (0, 128)), (127, 127, 127)),  # half black over white
        (Image.new("RGBA", (5, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (5, 4), (255, 0, 0, 255)), (255, 0, 0)),
        (palette(False), (255, 0, 0)),
        (palette(True), (255, 255, 255)),
        (Image.new("CMYK", (5, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("YCbCr", (5, 4), (255, 128, 128)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 5), 65535, dtype=np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 5), 257 * 100, dtype=np.uint16)), (100, 100, 100)),
        (Image.fromarray(np.full((4, 5), 1000, dtype=np.int32)), (4, 4, 4)),
        (Image.fromarray(np.full((4, 5), 0.5, dtype=np.float32)), (128, 128, 128)),
    ],
    ids=lambda v: v.mode if isinstance(v, Image.Image) else str(v),
)
def test_every_mode_becomes_rgb(image: Image.Image, colour: tuple[int, int, int]) -> None:
    found = read_image(image)
    assert found.shape == (3, 4, 5)
    assert found.dtype == torch.uint8
    assert [tuple(found[:, y, x].tolist()) for y in range(4) for x in range(5)] == [colour] * 20


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_files(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 65535, 30000]], dtype=np.uint16)
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(values).save(path)
    assert read_image(path)[0].tolist() == [[0, 1, 255, 117]]


def test_arrays_of_every_shape_and_type() -> None:
    rgba = np.zeros((2, 3, 4), dtype=np.uint8)
    rgba[..., 0], rgba[..., 3] = 255, 255
    assert read_image(rgba)[:, 0, 0].tolist() == [255, 0, 0]
    assert read_image(rgba, channels="bgr")[:, 0, 0].tolist() == [0, 0, 255]
    assert read_image(np.full((2, 3), 7, dtype=np.uint8))[:, 1, 2].tolist() == [7, 7, 7]
    assert read_image(np.full((2, 3, 1), 7, dtype=np.uint8)).shape == (3, 2, 3)
    assert read_image(np.full((2, 3, 2), 255, dtype=np.uint8))[:, 0, 0].tolist() == [255, 255, 255]
    assert read_image(np.ones((2, 3), dtype=bool))[:, 0, 0].tolist() == [255, 255, 255]
    assert read_image(np.full((2, 3, 3), 1.0))[:, 0, 0].tolist() == [255, 255, 255]
    assert read_image(np.full((2, 3, 3), 65535, dtype=np.uint16))[:, 0, 0].tolist() == [255, 255, 255]
    assert read_image(torch.full((1, 2, 3), 0.5, dtype=torch.bfloat16))[:, 0, 0].tolist() == [128, 128, 128]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_one_pixel_images(size: tuple[int, int]) -> None:
    assert read_image(noise_image(*size)).shape == (3, size[1], size[0])


def test_the_array_of_the_caller_is_not_shared() -> None:
    array = np.zeros((4, 4, 3), dtype=np.uint8)
    read_image(array).fill_(9)
    assert array.max() == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 5, 9), dtype=np.uint8), "channels come last"),
        (np.zeros((5, 9, 7), dtype=np.uint8), r"expected \[H, W\] or \[H, W, 1..4\]"),
        (np.zeros((0, 9, 3), dtype=np.uint8), "at least one pixel"),
        (np.full((2, 2), 300.0), "floats outside 0..1"),
        (np.full((2, 2), np.nan), "floats outside 0..1"),
        (np.zeros((2, 2), dtype=np.int64), "values of type int64"),
        (torch.zeros(2, 3, 4, 4), "expected"),
        (torch.zeros(9, 4, 4), r"tensor of shape \[9, 4, 4\]"),
        (b"", "the file is empty"),
        (b"not a picture", "not an image"),
        (7, "cannot read an image from int"),
        ("no/such.jpg", "no/such.jpg: no such image file"),
    ],
)
def test_wrong_sources_are_named(source: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_image(source)


def test_wrong_channel_order() -> None:
    with pytest.raises(UserError, match="channels='rbg'"):
        read_image(grey(), channels="rbg")


def test_damaged_files_are_named(tmp_path: Path, shared_data: Path) -> None:
    good = next((shared_data / "bccd" / "train").iterdir()).read_bytes()
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"cut\.jpg: the image is truncated"):
        read_image(cut)
    assert read_size(cut).width == 640  # its header is whole
    empty = tmp_path / "empty.png"
    empty.touch()
    text = tmp_path / "text.png"
    text.write_text("hello")
    png = io.BytesIO()
    noise_image(20, 20).save(png, "PNG")
    flipped = bytearray(png.getvalue())
    flipped[60:80] = bytes(20)
    broken = tmp_path / "broken.png"
    broken.write_bytes(flipped)
    for path, message in ((empty, "empty.png: the file is empty"), (text, "text.png: not an image")):
        with pytest.raises(UserError, match=message):
            read_image(path)
        with pytest.raises(UserError, match=message):
            read_size(path)
    for content, message in (
        (b"", "image in 0 bytes: the file is empty"),
        (b"hello", "image in 5 bytes: not an image"),
    ):
        with pytest.raises(UserError, match=message):
            read_size(content)
    with pytest.raises(UserError, match=r"broken\.png"):
        read_image(broken)
    with pytest.raises(UserError, match=r"a folder; expected an image file"):
        read_image(tmp_path)


def test_urls(shared_data: Path) -> None:
    data = next((shared_data / "bccd" / "train").iterdir()).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/a.jpg"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(data if found else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert torch.equal(read_image(f"{url}/a.jpg"), read_image(data))
        with pytest.raises(UserError, match=r"b\.jpg: the server answered 404"):
            read_image(f"{url}/b.jpg")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with pytest.raises(UserError, match=r"a\.jpg: cannot be downloaded"):
        read_image(f"{url}/a.jpg")
