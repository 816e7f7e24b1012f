"""Cartoon drawing: rounded shapes with outline, shade and glow, kept as polygons until they are rendered.

A sketch has units of its own: the ground is y = 0, up is negative, the animal looks along +x. Every polygon is
filled with a colour and a code, so that one pass of drawing gives the picture and the part under each pixel.
Points are complex numbers x + iy: to turn and to scale is to multiply, and small polygons cost little.
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
OUTLINE, SHADE, GLOW = 16, 32, 64  # added to the part in the code of a pixel that is not of the plain tone
PART_OF_CODE = 15  # mask
_GLOW_DEPTH = 0.62  # of the thickness
OTHER = 15  # the part of what has no parts


class Shape(NamedTuple):
    """A closed polygon that can grow and shrink."""

    points: np.ndarray  # [n] complex
    outward: np.ndarray  # [n] complex, where each point goes when the shape grows by one unit
    thickness: np.ndarray | float  # [n] how far each point can go inwards
    least: float  # the smallest of these


def tone(colour: Colour, factor: float) -> Colour:
    """Darker below 1; above 1 lighter, towards white."""
    if factor <= 1:
        r, g, b = (round(c * factor) for c in colour)
    else:
        r, g, b = (round(255 - (255 - c) * max(0.0, 2 - factor)) for c in colour)
    return r, g, b


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour."""
    r, g, b = (round(x + (y - x) * share) for x, y in zip(first, second, strict=True))
    return r, g, b


def hue(h: float, saturation: float, value: float) -> Colour:
    """A colour from hue, saturation and value, 0..1."""
    r, g, b = (round(255 * c) for c in colorsys.hsv_to_rgb(h % 1, saturation, value))
    return r, g, b


def blob(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Shape:
    """An ellipse, turned by an angle in radians."""
    turn, unit, least = cmath.exp(1j * angle), _circle(), min(rx, ry)
    points = (unit.real * rx + unit.imag * (1j * ry)) * turn + complex(x, y)
    return Shape(points, unit * turn, least, least)


def tube(spine: Sequence[Point], radii: Sequence[float]) -> Shape:
    """A limb: a smooth curve (Catmull-Rom) through the points of the spine, as thick as the radii, with round ends."""
    along, slope, around = _spline(len(spine))
    nodes = np.array([complex(*point) for point in spine])
    tangent = slope @ nodes
    tangent /= np.abs(tangent) + 1e-9
    normal, cap = -1j * tangent, _half_circle()
    outward = np.concatenate([normal, tangent[-1] * cap, -normal[::-1], -tangent[0] * cap])
    thickness = (along @ np.array(radii))[around]
    return Shape((along @ nodes)[around] + outward * thickness, outward, thickness, min(radii))


def polygon(points: Sequence[Point]) -> Shape:
    """Straight sides. Corners grow away from the middle."""
    corners = np.array([complex(*point) for point in points])
    away = corners - corners.mean()
    distance = np.abs(away) + 1e-9
    least = 0.6 * float(distance.min())
    return Shape(corners, 1.25 * away / distance, least, least)


def slab(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """An upright rectangle."""
    corners = np.array([complex(x0, y0), complex(x1, y0), complex(x1, y1), complex(x0, y1)])
    least = min(abs(x1 - x0), abs(y1 - y0)) / 2
    return Shape(corners, np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]), least, least)


class Cutout(NamedTuple):
    """A rendered sketch."""

    image: Image.Image  # RGB
    mask: Image.Image  # L, 255 on the object
    parts: np.ndarray  # [h, w] uint8, 0 outside
    ground: float  # row of y = 0


class _Fill(NamedTuple):
    polygons: Sequence[int]  # which
    colour: Colour
    code: int
    on: int | None = None  # only where this part is already, in the tones that it has


class Sketch:
    """Collects polygons; `render` draws them in that order."""

    def __init__(self, light: Point = (-0.6, -0.8), line: float = 0.03) -> None:
        """An empty sketch.

        Args:
            light: where the light comes from, a unit vector in the units of the sketch.
            line: how thick outlines are.
        """
        self._light = complex(*light)
        self._line = line
        self._polygons: list[np.ndarray] = []
        self._fills: list[_Fill] = []
        self._origin = 0j
        self._turn = 1 + 0j  # of length one
        self._scale = 1.0

    @contextmanager
    def placed(self, x: float, y: float, angle: float = 0.0, scale: float = 1.0) -> Iterator[None]:
        """What is drawn inside is turned, scaled and moved."""
        before = self._origin, self._turn, self._scale
        self._origin += self._scale * self._turn * complex(x, y)
        self._turn *= cmath.exp(1j * angle)
        self._scale *= scale
        yield
        self._origin, self._turn, self._scale = before

    def solid(
        self,
        *shapes: Shape,
        part: int,
        colour: Colour,
        outline: Colour | None = None,
        glow: bool = True,
        depth: float = 0.3,
    ) -> None:
        """Shapes that melt into one: outline around all, shade away from the light, glow towards it.

        Args:
            shapes: the pieces.
            part: what they are.
            colour: of the plain tone.
            outline: darker than the colour by default.
            glow: whether there is a lighter tone too.
            depth: how much of the thickness is in the shade.
        """
        placed = [self._place(shape) for shape in shapes]
        dark = mix(tone(colour, 0.38), (38, 24, 30), 0.35) if outline is None else outline
        for shape in placed:
            self._fill(shape.points + shape.outward * self._line, dark, part + OUTLINE)
        for shape in placed:
            self._fill(shape.points, _shaded(colour), part + SHADE)
        levels = [(depth, colour, part), (_GLOW_DEPTH, _glowing(colour), part + GLOW)]
        for level, paint, code in levels if glow else levels[:1]:
            for points, outward, thickness, least in placed:
                shift = self._light * (0.85 * level * least)
                self._fill(points - outward * (level * thickness) + shift, paint, code)

    def flat(self, *shapes: Shape, part: int, colour: Colour) -> None:
        """Shapes of one colour without an outline: eyes, noses, lines."""
        for shape in shapes:
            self._fill(self._place(shape).points, colour, part)

    def pattern(self, *shapes: Shape, on: int, part: int, colour: Colour) -> None:
        """Shapes that lie on a part: only where it is, not on its outline, and shaded as it is."""
        first = len(self._polygons)
        self._polygons += [self._place(shape).points for shape in shapes]
        self._fills.append(_Fill(range(first, len(self._polygons)), colour, part, on))

    def render(self, side: float, mirror: bool = False, angle: float = 0.0) -> Cutout:
        """Draws it.

        Args:
            side: the longer side of the picture, in pixels.
            mirror: looking to the left.
            angle: turned by so much, in radians.
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
    """Polygons where a part is, in the tones that it has there."""
    area = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(area)
    for points in corners:
        draw.polygon(points, fill=255)
    here, codes = np.asarray(area) > 0, np.asarray(canvas.getchannel("A"))
    tones = (0, fill.colour), (GLOW, _glowing(fill.colour)), (SHADE, _shaded(fill.colour))
    for added, colour in tones:
        canvas.paste((*colour, fill.code), mask=_mask(here & (codes == part + added)))


def _glowing(colour: Colour) -> Colour:
    return tone(colour, 1.16)


def _shaded(colour: Colour) -> Colour:
    return mix(tone(colour, 0.76), (70, 50, 110), 0.12)


@cache
def _circle(count: int = 26) -> np.ndarray:
    return np.exp(1j * np.linspace(0, 2 * np.pi, count, endpoint=False))


@cache
def _half_circle(count: int = 6) -> np.ndarray:
    """From the normal over the tangent to the other normal, ends left out, as factors of the tangent."""
    return np.exp(1j * np.linspace(-np.pi / 2, np.pi / 2, count + 2)[1:-1])


@cache
def _spline(nodes: int, steps: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices [m, nodes] to the points and slopes of a Catmull-Rom curve, and the way round: there, cap, back, cap."""
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
