"""What the figure wears: cloak, robe, armor or shirt, in six colours."""

from typing import TYPE_CHECKING

from elf.world.painter import Colour, Point, ellipse, mix, scale, smooth
from elf.world.scene import Scene

if TYPE_CHECKING:
    from elf.world.figure import Placed

COLOURS: dict[str, Colour] = {
    "red": (206, 40, 44),
    "green": (46, 138, 62),
    "blue": (44, 88, 204),
    "purple": (140, 62, 178),
    "yellow": (244, 206, 44),
    "white": (240, 240, 244),
}
GOLD: Colour = (228, 178, 60)
HAND: Point = (15.0, 48.0)
"""Where the hand that holds something is."""


def back(brush: "Placed", scene: Scene) -> None:
    """What hangs behind the body."""
    if scene.outfit == "cloak":
        colour = scale(COLOURS[scene.colour], 0.7)
        brush.fill(smooth([(-9, 36), (9, 36), (20, 70), (-20, 70)], 4), colour)


def outfit(brush: "Placed", scene: Scene, skin: Colour) -> None:
    """The clothes on the body."""
    colour = COLOURS[scene.colour]
    {"cloak": _cloak, "robe": _robe, "armor": _armor, "shirt": _shirt}[scene.outfit](
        brush, colour, skin
    )


def arm(brush: "Placed", scene: Scene, skin: Colour) -> None:
    """The forearm and the hand that hold something, painted over it."""
    x, y = HAND
    sleeve = COLOURS[scene.colour]
    bare = scene.outfit == "shirt"
    shape = [(7.5, 45), (x - 1.5, y - 2.2), (x - 1, y + 2), (8.5, 51.5)]
    if scene.outfit in ("cloak", "robe"):
        shape = [(7, 44), (x - 2.5, y - 3), (x - 1, y + 4), (7.5, 53)]
    brush.fill(
        smooth(shape, 3), skin if bare else sleeve, gloss=0.5 if scene.outfit == "armor" else 0.0
    )
    brush.fill(ellipse(x, y, 2.3, 2.2), skin, outline=0.6)


def _arms(brush: "Placed", colour: Colour, gloss: float = 0.0) -> None:
    for side in (-1, 1):
        upper = [(side * 7, 39), (side * 11.5, 41), (side * 13, 56), (side * 9.5, 58)]
        brush.fill(smooth(upper, 3), colour, gloss=gloss)


def _cloak(brush: "Placed", colour: Colour, skin: Colour) -> None:
    brush.fill([(-6, 38), (6, 38), (7, 70), (-7, 70)], (92, 74, 62))
    brush.line([(-6.5, 55), (6.5, 55)], (52, 38, 32), 1.6)
    for side in (-1, 1):
        panel = [
            *((side * 1.2, 37), (side * 8, 37.5), (side * 13, 43), (side * 18, 70)),
            *((side * 6.5, 70), (side * 4, 50)),
        ]
        brush.fill(smooth(panel, 4), colour)
    hood = [(-8.5, 37), (-4, 34.4), (0, 39.4), (4, 34.4), (8.5, 37), (5, 41.5), (-5, 41.5)]
    brush.fill(smooth(hood, 4), scale(colour, 0.9))
    brush.fill(ellipse(0, 41, 1.6, 1.6), GOLD, outline=0.5, gloss=0.5)


def _robe(brush: "Placed", colour: Colour, skin: Colour) -> None:
    for side in (-1, 1):
        sleeve = [(side * 6, 38), (side * 11, 40), (side * 17, 58), (side * 9, 61)]
        brush.fill(smooth(sleeve, 4), scale(colour, 0.92))
    brush.fill(smooth([(-7, 37), (7, 37), (9, 50), (12, 72), (-12, 72), (-9, 50)], 4), colour)
    trim = mix(colour, (255, 250, 230), 0.75) if colour != COLOURS["white"] else (150, 150, 170)
    brush.line([(-4.5, 37), (0, 46), (4.5, 37)], trim, 1.6)
    brush.line([(0, 46), (0, 66)], trim, 1.2)
    brush.line([(-8.6, 54), (8.6, 54)], trim, 2.4)


def _armor(brush: "Placed", colour: Colour, skin: Colour) -> None:
    metal = mix(colour, (176, 182, 196), 0.28)
    _arms(brush, scale(metal, 0.8), 0.4)
    plate = smooth([(-8, 38), (8, 38), (9.5, 46), (7, 57), (-7, 57), (-9.5, 46)], 4)
    brush.fill(plate, metal, gloss=0.7)
    for y in (57, 60.5, 64):
        skirt = [(-8, y), (8, y), (9, y + 4), (-9, y + 4)]
        brush.fill(skirt, scale(metal, 0.82), gloss=0.4)
    brush.line([(0, 40), (0, 56)], scale(metal, 0.55), 0.8)
    brush.line([(-7.5, 50), (0, 53), (7.5, 50)], scale(metal, 0.55), 0.7)
    for side in (-1, 1):
        brush.fill(ellipse(side * 10, 40.5, 4.6, 3.8, side * 20), metal, gloss=0.8)
        brush.line([(side * 6.5, 42), (side * 13.5, 43)], scale(metal, 0.5), 0.6)
    brush.fill([(-4.4, 35.5), (4.4, 35.5), (5, 39), (-5, 39)], metal, gloss=0.6)


def _shirt(brush: "Placed", colour: Colour, skin: Colour) -> None:
    _arms(brush, skin)
    trousers: Colour = (70, 66, 84)
    brush.fill([(-8, 56), (8, 56), (8.5, 70), (-8.5, 70)], trousers)
    body = [(-6, 37), (6, 37), (9.5, 40), (8, 58), (-8, 58), (-9.5, 40)]
    brush.fill(smooth(body, 3), colour)
    for side in (-1, 1):
        sleeve = [(side * 6.5, 38), (side * 11.5, 40.5), (side * 12.8, 47), (side * 8, 47.5)]
        brush.fill(smooth(sleeve, 3), colour)
    brush.flat([(-3, 36.6), (3, 36.6), (0, 41)], skin)
    collar = scale(colour, 0.7)
    brush.line([(-3.4, 36.6), (0, 41.2), (3.4, 36.6)], collar, 1.0)
    for y in (45, 49, 53):
        brush.flat(ellipse(0, y, 0.6, 0.6), collar)
