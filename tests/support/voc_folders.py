"""PASCAL VOC folders written to disk."""

from __future__ import annotations

from pathlib import Path

from tests.support.datasets import noise_image


def xml(*objects: tuple[str, tuple[float, float, float, float]], difficult: int = 0, source: str = "") -> str:
    """Return the XML of a 40 x 30 image with named boxes [x0, y0, x1, y1]."""
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, b in objects
    )
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f"<annotation><source><annotation>{source}</annotation></source>{size}{items}</annotation>"


def write_voc(root: Path, pages: dict[str, str | None], splits: dict[str, str] | None = None) -> Path:
    """Write Annotations/, JPEGImages/ and ImageSets/ for the XML of each stem (None: an image without XML)."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, text in pages.items():
        noise_image(40, 30).save(root / "JPEGImages" / f"{stem}.png")
        if text is not None:
            (root / "Annotations" / f"{stem}.xml").write_text(text)
    for name, text in (splits or {}).items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


PAGES = {
    "a": xml(("dog", (1, 2, 11, 22)), ("cat", (5, 5, 9, 9))),
    "b": xml(("cow", (3.5, 4.5, 13, 14))),
    "c": xml(),
    "d": None,
}
SPLITS = {"train": "a\nc\n", "val": "b\nd\n", "trainval": "a\nb\nc\nd\n", "dog_train": "a  1\nc -1\n"}
