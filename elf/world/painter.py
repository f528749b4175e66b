"""A brush that paints a shape in one of three styles: shaded, flat anime or line drawing."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Point = tuple[float, float]
Colour = tuple[int, int, int]
Shape = Sequence[Point]

SUPERSAMPLING = 4
"""Canvas px a side for one px of the finished picture, at the 64 px size."""

HEIGHT_UNITS = 64.0
"""Height of every picture in drawing units, whatever its size in px."""


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` of `second` in it."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def scale(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor < 1) or lighter."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = list(zip(np.cos(_ANGLES).tolist(), np.sin(_ANGLES).tolist(), strict=True))


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> list[Point]:
    """An ellipse as a polygon; `turn` in degrees, clockwise."""
    if not turn:
        return [(x + rx * a, y + ry * b) for a, b in _CIRCLE]
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [
        (x + rx * a * cosine - ry * b * sine, y + rx * a * sine + ry * b * cosine)
        for a, b in _CIRCLE
    ]


def smooth(points: Shape, steps: int = 5) -> list[Point]:
    """A closed Catmull-Rom curve through `points`."""
    curve: list[Point] = []
    count = len(points)
    weights = _curve_weights(steps)
    for place in range(count):
        (ax, ay), (bx, by) = points[place - 1], points[place]
        (cx, cy), (dx, dy) = points[(place + 1) % count], points[(place + 2) % count]
        curve += [
            (a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy)
            for a, b, c, d in weights
        ]
    return curve


@cache
def _curve_weights(steps: int) -> list[tuple[float, float, float, float]]:
    weights = []
    for t in (step / steps for step in range(steps)):
        before, after = -t + 2 * t**2 - t**3, t + 4 * t**2 - 3 * t**3
        weights.append((before / 2, 1 - 2.5 * t**2 + 1.5 * t**3, after / 2, (t**3 - t**2) / 2))
    return weights


class Painter:
    """Paints shapes on a canvas that is larger than the picture and scaled down at the end.

    Args:
        width: of the finished picture, px.
        height: of the finished picture, px.
        style: one of `scene.STYLES`.
        light: -1 when the light comes from the left, 1 from the right.
        paper: what a line drawing is drawn on.
    """

    def __init__(self, width: int, height: int, style: str, light: int, paper: Colour) -> None:
        oversize = max(2, round(SUPERSAMPLING * 64 / max(height, 48)))
        self.size = (width, height)
        self.unit = height * oversize / HEIGHT_UNITS
        self.style = style
        self.light = light
        self.paper = paper
        self.width_units = width / height * HEIGHT_UNITS
        self.canvas = Image.new("RGB", (width * oversize, height * oversize), paper)
        self.pen = ImageDraw.Draw(self.canvas)

    def gradient(self, top: Colour, bottom: Colour) -> None:
        """Cover the canvas from top to bottom; a line drawing keeps its paper."""
        if self.style == "lineart":
            return
        width, height = self.canvas.size
        share = np.linspace(0, 1, height)[:, None]
        if self.style == "anime":
            share = np.floor(share * 5) / 4
        rows = np.asarray(top)[None] * (1 - share) + np.asarray(bottom)[None] * share
        column = Image.fromarray(np.clip(rows, 0, 255).astype(np.uint8)[:, None, :])
        self.canvas.paste(column.resize((width, height), Image.Resampling.NEAREST))

    def line(self, points: Shape, colour: Colour, width: float) -> None:
        """A plain stroke, `width` units wide, the same in every style."""
        pixels = self._pixels(points)
        self.pen.line(pixels, fill=colour, width=self._stroke(width), joint="curve")

    def flat(self, shape: Shape, colour: Colour) -> None:
        """A plain area without outline or shading, the same in every style."""
        self.pen.polygon(self._pixels(shape), fill=colour)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
        """Light that fades out from a point; `strength` in 0-1."""
        if self.style == "lineart":
            return
        reach = max(2, round(radius * self.unit))
        axis = np.linspace(-1, 1, 2 * reach)
        fade = np.clip(1 - np.hypot(axis[:, None], axis[None, :]), 0, 1) ** 1.5
        mask = Image.fromarray((fade * 255 * strength).astype(np.uint8))
        corner = (round(x * self.unit) - reach, round(y * self.unit) - reach)
        self.canvas.paste(Image.new("RGB", mask.size, colour), corner, mask)

    def blur(self, radius: float) -> None:
        """Blur what is painted so far, `radius` in units."""
        self.canvas = self.canvas.filter(ImageFilter.BoxBlur(radius * self.unit))
        self.pen = ImageDraw.Draw(self.canvas)

    def fill(
        self, shape: Shape, colour: Colour, *, outline: float = 0.7, gloss: float = 0.0
    ) -> None:
        """Paint an area in the style of the picture.

        Args:
            shape: a closed polygon, in units.
            colour: its own colour.
            outline: width of the outline, in units, where the style has one.
            gloss: how metallic it looks when shaded, 0-1.
        """
        pixels = self._pixels(shape)
        if self.style == "lineart":
            self.pen.polygon(pixels, fill=mix(self.paper, colour, 0.45))
            self._contour(pixels, mix(colour, (20, 20, 30), 0.55), outline)
            return
        corner, mask = self._mask(pixels)
        if self.style == "anime":
            self.pen.polygon(pixels, fill=colour)
            reach = round(min(1.6 * self.unit, 0.16 * min(mask.size)))
            shifted = ImageChops.offset(mask, self.light * reach, -reach)
            shadow = ImageChops.subtract(mask, shifted)
            self.canvas.paste(Image.new("RGB", mask.size, scale(colour, 0.74)), corner, shadow)
            self._contour(pixels, scale(colour, 0.32), outline * 0.8)
            return
        self.canvas.paste(self._shaded(mask, colour, gloss), corner, mask)

    def finish(self) -> Image.Image:
        """The picture at its final size."""
        return self.canvas.resize(self.size, Image.Resampling.BOX)

    def _shaded(self, mask: Image.Image, colour: Colour, gloss: float) -> Image.Image:
        # The blurred mask serves as a height map: a soft pillow, lit from above one side.
        radius = max(1.0, 0.16 * min(mask.size))
        height = np.asarray(mask.filter(ImageFilter.BoxBlur(radius)), dtype=np.float32) / 255
        slope = np.zeros_like(height)
        slope[1:-1] = (0.75 * radius) * (height[2:] - height[:-2])
        slope[:, 1:-1] += (0.65 * radius * self.light) * (height[:, 2:] - height[:, :-2]) * -1
        np.clip(slope, -1, 1, out=slope)
        shade = 0.72 + 0.30 * height + 0.34 * slope
        lit: NDArray[np.floating] = np.asarray(colour, dtype=np.float32) * shade[..., None]
        if gloss:
            lit += (255 * gloss) * (np.maximum(slope, 0) ** 2)[..., None]
        np.clip(lit, 0, 255, out=lit)
        return Image.fromarray(lit.astype(np.uint8))

    def _mask(self, pixels: Shape) -> tuple[tuple[int, int], Image.Image]:
        xs, ys = [point[0] for point in pixels], [point[1] for point in pixels]
        left, top = int(min(xs)) - 1, int(min(ys)) - 1
        mask = Image.new("L", (int(max(xs)) - left + 3, int(max(ys)) - top + 3))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=255)
        return (left, top), mask

    def _contour(self, pixels: Shape, colour: Colour, width: float) -> None:
        if width <= 0:
            return
        self.pen.line([*pixels, pixels[0]], fill=colour, width=self._stroke(width), joint="curve")

    def _pixels(self, shape: Shape) -> list[Point]:
        return [(x * self.unit, y * self.unit) for x, y in shape]

    def _stroke(self, width: float) -> int:
        return max(1, round(width * self.unit))
