"""Cartoon drawing: rounded shapes with outline, shade and glow, stored as polygons and rendered at the end.

A sketch has its own units: the ground is y = 0, up is negative, the animal faces +x. Every polygon is filled with a
colour and a code, so that one pass gives the image and the part under each pixel. Points are complex numbers x + iy:
rotation and scaling are multiplications, which makes small polygons cheap.
"""

from __future__ import annotations

import cmath
import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
OUTLINE, SHADE, GLOW = 16, 32, 64  # added to the part in the code of a pixel, 0 for the plain tone
PART_OF_CODE = 15  # bit mask
_GLOW_DEPTH = 0.62  # share of the thickness
OTHER = 15  # part of objects without parts


class Shape(NamedTuple):
    """Closed polygon that can grow and shrink."""

    points: np.ndarray  # [n] complex
    outward: np.ndarray  # [n] complex, shift of each point when the shape grows by one unit
    thickness: np.ndarray | float  # [n] distance that each point can move inwards
    least: float  # smallest thickness


def tone(colour: Colour, factor: float) -> Colour:
    """Return a colour darkened (factor below 1) or lightened towards white (above 1)."""
    if factor <= 1:
        r, g, b = (round(c * factor) for c in colour)
    else:
        r, g, b = (round(255 - (255 - c) * max(0.0, 2 - factor)) for c in colour)
    return r, g, b


def mix_paint(first: Colour, second: Colour, share: float) -> Colour:
    """Return a mixture of two colours with `share` of the second."""
    r, g, b = (round(x + (y - x) * share) for x, y in zip(first, second, strict=True))
    return r, g, b


def sketch_hue(h: float, saturation: float, value: float) -> Colour:
    """Return a colour from hue, saturation and value, 0..1."""
    r, g, b = (round(255 * c) for c in colorsys.hsv_to_rgb(h % 1, saturation, value))
    return r, g, b


def blob(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Shape:
    """Return an ellipse, rotated by an angle in radians."""
    turn, unit, least = cmath.exp(1j * angle), _circle(), min(rx, ry)
    points = (unit.real * rx + unit.imag * (1j * ry)) * turn + complex(x, y)
    return Shape(points, unit * turn, least, least)


def tube(spine: Sequence[Point], radii: Sequence[float]) -> Shape:
    """Return a limb: a Catmull-Rom curve through the points of a spine, as thick as the radii, with round ends."""
    along, slope, around = _spline(len(spine))
    nodes = np.array([complex(*point) for point in spine])
    tangent = slope @ nodes
    tangent /= np.abs(tangent) + 1e-9
    normal, cap = -1j * tangent, _half_circle()
    outward = np.concatenate([normal, tangent[-1] * cap, -normal[::-1], -tangent[0] * cap])
    thickness = (along @ np.array(radii))[around]
    return Shape((along @ nodes)[around] + outward * thickness, outward, thickness, min(radii))


def polygon(points: Sequence[Point]) -> Shape:
    """Return a shape with straight sides, whose corners grow away from the middle."""
    corners = np.array([complex(*point) for point in points])
    away = corners - corners.mean()
    distance = np.abs(away) + 1e-9
    least = 0.6 * float(distance.min())
    return Shape(corners, 1.25 * away / distance, least, least)


def slab(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """Return an upright rectangle."""
    corners = np.array([complex(x0, y0), complex(x1, y0), complex(x1, y1), complex(x0, y1)])
    least = min(abs(x1 - x0), abs(y1 - y0)) / 2
    return Shape(corners, np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]), least, least)


class Cutout(NamedTuple):
    """Rendered sketch."""

    image: Image.Image  # RGB
    mask: Image.Image  # L, 255 on the object
    parts: np.ndarray  # [h, w] uint8, 0 outside
    ground: float  # row of y = 0, pixels


class _Fill(NamedTuple):
    polygons: Sequence[int]  # indices
    colour: Colour
    code: int
    on: int | None = None  # fill only pixels of this part, in their tones


class Sketch:
    """Drawing of polygons, which `render` fills in the order of the calls.

    Args:
        light: Direction of the light, a unit vector.
        line: Thickness of outlines.
    """

    def __init__(self, light: Point = (-0.6, -0.8), line: float = 0.03) -> None:
        self._light = complex(*light)
        self._line = line
        self._polygons: list[np.ndarray] = []
        self._fills: list[_Fill] = []
        self._origin = 0j
        self._turn = 1 + 0j  # of length one
        self._scale = 1.0

    @contextmanager
    def placed(self, x: float, y: float, angle: float = 0.0, scale: float = 1.0) -> Iterator[None]:
        """Rotate, scale and move all that is drawn inside the `with`."""
        before = self._origin, self._turn, self._scale
        self._origin += self._scale * self._turn * complex(x, y)
        self._turn *= cmath.exp(1j * angle)
        self._scale *= scale
        yield
        self._origin, self._turn, self._scale = before

    def solid(self, part: int, colour: Colour, *shapes: Shape, glow: bool = True, depth: float = 0.3) -> None:
        """Draw shapes merged into one: outline around all, shade away from the light, glow towards it.

        Args:
            part: Part of the animal, or `OTHER`.
            colour: Colour of the plain tone.
            shapes: Pieces.
            glow: Whether there is a lighter tone too.
            depth: Share of the thickness that is in the shade.
        """
        placed = [self._place(shape) for shape in shapes]
        dark = mix_paint(tone(colour, 0.38), (38, 24, 30), 0.35)
        for shape in placed:
            self._fill(shape.points + shape.outward * self._line, dark, part + OUTLINE)
        for shape in placed:
            self._fill(shape.points, _shaded(colour), part + SHADE)
        levels = [(depth, colour, part), (_GLOW_DEPTH, _glowing(colour), part + GLOW)]
        for level, paint, code in levels if glow else levels[:1]:
            for points, outward, thickness, least in placed:
                shift = self._light * (0.85 * level * least)
                self._fill(points - outward * (level * thickness) + shift, paint, code)

    def flat(self, part: int, colour: Colour, *shapes: Shape) -> None:
        """Draw shapes of one colour without an outline: eyes, noses, lines."""
        for shape in shapes:
            self._fill(self._place(shape).points, colour, part)

    def pattern(self, on: int, part: int, colour: Colour, *shapes: Shape) -> None:
        """Draw shapes on the part `on`: only inside its outline, and shaded as it is."""
        first = len(self._polygons)
        self._polygons += [self._place(shape).points for shape in shapes]
        self._fills.append(_Fill(range(first, len(self._polygons)), colour, part, on))

    def render(self, side: float, mirror: bool = False, angle: float = 0.0) -> Cutout:
        """Render the sketch.

        Args:
            side: Longer side of the image, pixels.
            mirror: Whether to face left.
            angle: Rotation in radians.
        """
        points = np.concatenate(self._polygons)
        if mirror:
            points = -points.conj()
        points *= cmath.exp(1j * angle)
        x, y = points.real, points.imag
        low = complex(x.min(), y.min())
        wide, high = float(x.max()) - low.real, float(y.max()) - low.imag
        scale = side / max(wide, high)
        flat = ((points - low) * scale + (1 + 1j)).view(np.float64).tolist()  # x, y, x, y, ...
        stops = [0, *accumulate(2 * len(p) for p in self._polygons)]
        canvas = Image.new("RGBA", (int(wide * scale) + 3, int(high * scale) + 3))
        draw = ImageDraw.Draw(canvas)
        for fill in self._fills:
            corners = [flat[stops[i] : stops[i + 1]] for i in fill.polygons]
            if fill.on is None:
                for sides in corners:
                    draw.polygon(sides, fill=(*fill.colour, fill.code))
            else:
                _draw_on(canvas, corners, fill, fill.on)
        codes = np.asarray(canvas.getchannel("A"))
        ground = -low.imag * scale + 1
        return Cutout(canvas.convert("RGB"), _mask(codes > 0), codes & PART_OF_CODE, ground)

    def _place(self, shape: Shape) -> Shape:
        scale = self._scale
        points = shape.points * (scale * self._turn) + self._origin
        return Shape(points, shape.outward * self._turn, scale * shape.thickness, scale * shape.least)

    def _fill(self, points: np.ndarray, colour: Colour, code: int) -> None:
        self._fills.append(_Fill((len(self._polygons),), colour, code))
        self._polygons.append(points)


def _draw_on(canvas: Image.Image, corners: Sequence[list[float]], fill: _Fill, part: int) -> None:
    """Fill polygons on the pixels of a part, in the tones of the part."""
    area = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(area)
    for points in corners:
        draw.polygon(points, fill=255)
    here, codes = np.asarray(area) > 0, np.asarray(canvas.getchannel("A"))
    tones = (0, fill.colour), (GLOW, _glowing(fill.colour)), (SHADE, _shaded(fill.colour))
    for shading, colour in tones:
        canvas.paste((*colour, fill.code), mask=_mask(here & (codes == part + shading)))


def _glowing(colour: Colour) -> Colour:
    return tone(colour, 1.16)


def _shaded(colour: Colour) -> Colour:
    return mix_paint(tone(colour, 0.76), (70, 50, 110), 0.12)


@cache
def _circle(count: int = 26) -> np.ndarray:
    points: np.ndarray = np.exp(1j * np.linspace(0, 2 * np.pi, count, endpoint=False))
    return points


@cache
def _half_circle(count: int = 6) -> np.ndarray:
    """Return points from one normal over the tangent to the other, without the ends, as factors of the tangent."""
    points: np.ndarray = np.exp(1j * np.linspace(-np.pi / 2, np.pi / 2, count + 2)[1:-1])
    return points


@cache
def _spline(nodes: int, steps: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return matrices [m, nodes] to points and slopes of a Catmull-Rom curve, and the order: there, cap, back, cap."""
    at = np.linspace(0, nodes - 1, (nodes - 1) * steps + 1)
    points, slopes = np.zeros((2, len(at), nodes))
    for row, t in enumerate(at):
        i = min(int(t), nodes - 2)
        u = t - i
        value = (-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3, u + 4 * u**2 - 3 * u**3, -(u**2) + u**3)
        slope = (-1 + 4 * u - 3 * u**2, -10 * u + 9 * u**2, 1 + 8 * u - 9 * u**2, -2 * u + 3 * u**2)
        for k, (v, s) in enumerate(zip(value, slope, strict=True)):
            node = min(max(i + k - 1, 0), nodes - 1)
            points[row, node] += v / 2
            slopes[row, node] += s / 2
    there, cap = range(len(at)), len(_half_circle())
    around = [*there, *[there[-1]] * cap, *reversed(there), *[0] * cap]
    return points, slopes, np.array(around)


def _mask(where: np.ndarray) -> Image.Image:
    return Image.fromarray(where.view(np.uint8) * np.uint8(255))
