"""The figure: body, head and hair, put together from back to front."""

import numpy as np

from elf.world.backdrop import GRADES
from elf.world.headwear import headwear
from elf.world.items import item
from elf.world.outfits import HAND, arm, back, outfit
from elf.world.painter import Colour, Painter, Point, Shape, ellipse, mix, scale, smooth
from elf.world.scene import Scene

HAIR: dict[str, Colour] = {
    "black": (44, 40, 48),
    "brown": (122, 74, 42),
    "blonde": (240, 204, 98),
    "red": (196, 62, 34),
    "white": (236, 236, 242),
    "blue": (66, 112, 216),
}
SKIN: dict[str, Colour] = {"pale": (253, 226, 208), "tan": (218, 160, 112), "dark": (122, 76, 50)}

HEAD: Point = (0.0, 25.0)
"""Centre of the head, relative to the figure's middle."""


class Placed:
    """A painter that works in the figure's own coordinates and in the light of the hour.

    x runs from the figure's middle; y from the top of the picture.
    """

    def __init__(self, painter: Painter, x: float, size: float, drop: float, time: str) -> None:
        self.painter = painter
        self.x, self.size, self.drop = x, size, drop
        # The figure keeps more of its own colour than the ground does, or nobody could tell
        # a purple cloak from a blue one by night.
        red, green, blue = (1 - (1 - part) * 0.55 for part in GRADES[time])
        self.grade = (red, green, blue) if painter.style != "lineart" else (1.0, 1.0, 1.0)

    @property
    def style(self) -> str:
        """The style of the picture."""
        return self.painter.style

    def place(self, shape: Shape) -> list[Point]:
        """From the figure's coordinates to the picture's."""
        return [(self.x + x * self.size, 64 + (y - 64) * self.size + self.drop) for x, y in shape]

    def lit(self, colour: Colour) -> Colour:
        """A colour in the light of the hour."""
        red, green, blue = (
            round(channel * part) for channel, part in zip(colour, self.grade, strict=True)
        )
        return red, green, blue

    def fill(
        self, shape: Shape, colour: Colour, *, outline: float = 0.7, gloss: float = 0.0
    ) -> None:
        """Like `Painter.fill`."""
        self.painter.fill(self.place(shape), self.lit(colour), outline=outline, gloss=gloss)

    def flat(self, shape: Shape, colour: Colour) -> None:
        """Like `Painter.flat`."""
        self.painter.flat(self.place(shape), self.lit(colour))

    def line(self, points: Shape, colour: Colour, width: float) -> None:
        """Like `Painter.line`."""
        self.painter.line(self.place(points), self.lit(colour), width * self.size)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
        """Like `Painter.glow`; a light has its own colour at any hour."""
        ((px, py),) = self.place([(x, y)])
        self.painter.glow(px, py, radius * self.size, colour, strength)


def figure(painter: Painter, scene: Scene, random: np.random.Generator) -> None:
    """Paint the figure of a scene somewhere near the middle."""
    middle = painter.width_units / 2 + random.uniform(-2.5, 2.5) - 0.05 * painter.width_units
    brush = Placed(
        painter, middle, random.uniform(0.92, 1.04), random.uniform(-0.5, 1.5), scene.time
    )
    hair, skin = HAIR[scene.hair], SKIN[scene.skin]
    girl = scene.figure == "girl"
    if girl:
        _long_hair(brush, hair, random)
    back(brush, scene)
    neck = [(-2.6, 30), (2.6, 30), (3.2, 39), (-3.2, 39)]
    brush.fill(neck, scale(skin, 0.88), outline=0.5)
    outfit(brush, scene, skin)
    _face(brush, skin, girl, random)
    _fringe(brush, hair, girl, random)
    # In front of the hair: the hair of the girls would hide what tells an elf from a human.
    _ears(brush, scene.ears, skin)
    headwear(brush, scene.headwear, HEAD)
    if scene.item != "none":
        item(brush, scene.item, HAND)
        arm(brush, scene, skin)


def _long_hair(brush: Placed, hair: Colour, random: np.random.Generator) -> None:
    x, y = HEAD
    end = random.uniform(46, 50)
    wide = random.uniform(11.5, 13)
    outer = [(x, y - 11.5), (x + 8, y - 9), (x + 11, y), (x + wide, y + 12), (x + wide - 1, end)]
    inner = [(x + 4, end - 3)]
    right = [*outer, *inner]
    left = [(-px, py) for px, py in reversed(right[1:])]
    brush.fill(smooth([*right, *left], 4), scale(hair, 0.82))


def _ears(brush: Placed, ears: str, skin: Colour) -> None:
    x, y = HEAD
    for side in (-1, 1):
        if ears == "round":
            brush.fill(ellipse(x + side * 9.2, y + 1.4, 2.0, 2.6), skin, outline=0.6)
            continue
        long = [
            *((x + side * 6.6, y + 5), (x + side * 12, y + 2), (x + side * 18.5, y - 7.5)),
            *((x + side * 11, y - 4.4), (x + side * 7.4, y - 3)),
        ]
        brush.fill(long, skin, outline=0.7)
        inner = [(x + side * 8.8, y + 2.2), (x + side * 15.5, y - 5), (x + side * 8.8, y - 1.4)]
        brush.flat(inner, mix(skin, (190, 80, 70), 0.35))


def _face(brush: Placed, skin: Colour, girl: bool, random: np.random.Generator) -> None:
    x, y = HEAD
    jaw = 5.0 if girl else 6.2
    half = [(x, y - 10), (x + 7, y - 7.5), (x + 8.6, y), (x + jaw, y + 6.6), (x + 1.5, y + 9.6)]
    mirrored = [(-px, py) for px, py in reversed(half[1:])]
    brush.fill(smooth([*half, *mirrored], 4), skin)
    dark = (40, 30, 36)
    realistic = brush.style == "realistic"
    tall = 1.5 if realistic else 2.2
    for side in (-1, 1):
        ex, ey = x + side * 3.6, y + 1.6
        brush.flat(ellipse(ex, ey, 1.6, tall), (250, 250, 250))
        brush.flat(ellipse(ex, ey + 0.2, 1.25, tall * 0.88), dark)
        brush.flat(ellipse(ex - 0.4, ey - tall * 0.4, 0.5, 0.5), (255, 255, 255))
        lid = ey - tall
        if girl:
            lashes = [(ex - 1.7, lid + 0.4), (ex + side * 0.4, lid - 0.2), (ex + 1.7, lid + 0.4)]
            brush.line(lashes, dark, 0.7)
        else:
            brow = [(ex - side * 1.8, lid - 1.5), (ex + side * 2.0, lid - 1.1)]
            brush.line(brow, dark, 0.9)
    if girl:
        for side in (-1, 1):
            blush = mix(skin, (236, 110, 110), 0.4)
            brush.flat(ellipse(x + side * 5.2, y + 4.6, 1.3, 0.7), blush)
    if realistic:
        brush.line([(x + 0.2, y + 2.5), (x + 0.6, y + 4.4)], scale(skin, 0.76), 0.7)
    smile = random.uniform(0.3, 1.1)
    mouth = [(x + 1.7 * t, y + 6.0 + smile * (1 - t * t)) for t in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    brush.line(mouth, mix(skin, (150, 40, 50), 0.75), 0.7)


def _fringe(brush: Placed, hair: Colour, girl: bool, random: np.random.Generator) -> None:
    x, y = HEAD
    part = random.uniform(-2.5, 2.5)
    low = y + (3.5 if girl else 0.5)
    cap = [
        *((x - 9.6, low), (x - 9.8, y - 5), (x - 6, y - 11), (x, y - 12.4)),
        *((x + 6, y - 11), (x + 9.8, y - 5), (x + 9.6, low)),
        *((x + 7.6, y - 2.4), (x + 5, y - 4.2), (x + part + 1.5, y - 3.0)),
        *((x + part, y - 5.6), (x + part - 2, y - 3.0), (x - 5, y - 4.2), (x - 7.6, y - 2.4)),
    ]
    brush.fill(smooth(cap, 3), hair)
    shine = mix(hair, (255, 255, 255), 0.45)
    if brush.style == "anime":
        brush.line([(x - 5, y - 8), (x - 1.5, y - 9), (x + 3, y - 8.6)], shine, 0.9)
