"""What the figure wears on its head."""

from typing import TYPE_CHECKING

import numpy as np

from elf.world.painter import Colour, Point, ellipse, scale, smooth

if TYPE_CHECKING:
    from elf.world.figure import Placed

GOLD: Colour = (246, 196, 52)


def headwear(brush: "Placed", kind: str, head: Point) -> None:
    """Paint one of `scene.HEADWEAR` on a head with this centre."""
    if kind == "crown":
        _crown(brush, *head)
    elif kind == "witch hat":
        _witch_hat(brush, *head)
    elif kind == "flower wreath":
        _flower_wreath(brush, *head)
    elif kind == "headband":
        _headband(brush, *head)
    elif kind == "leaf crown":
        _leaf_crown(brush, *head)


def _band(x: float, y: float, angle: float) -> Point:
    """A point on the line where a wreath sits; `angle` in degrees, -90 is the middle."""
    radians = np.radians(angle)
    return x + 9.9 * float(np.cos(radians)), y - 3.4 + 6.4 * float(np.sin(radians))


def _crown(brush: "Placed", x: float, y: float) -> None:
    top, low = y - 18, y - 7.6
    points = [
        *((x - 8.4, low), (x - 9.4, top + 1.6), (x - 5, low - 5.2), (x - 3.2, top)),
        *((x, low - 5.6), (x + 3.2, top), (x + 5, low - 5.2), (x + 9.4, top + 1.6)),
        *((x + 8.4, low), (x, low + 1.8)),
    ]
    brush.fill(points, GOLD, gloss=0.6)
    for shift, gem in ((-5, (60, 120, 220)), (0, (214, 40, 60)), (5, (60, 120, 220))):
        brush.fill(ellipse(x + shift, low - 1.6, 1.3, 1.4), gem, outline=0.4)


def _witch_hat(brush: "Placed", x: float, y: float) -> None:
    cloth: Colour = (74, 50, 104)
    cone = [(x - 8, y - 7), (x - 4, y - 15), (x + 3, y - 25), (x + 6.5, y - 22), (x + 8, y - 7)]
    brush.fill(cone, cloth)
    band = [(x - 7.9, y - 7), (x - 6.4, y - 10.4), (x + 7.4, y - 10.4), (x + 8, y - 7)]
    brush.fill(band, (232, 150, 44), outline=0.4)
    brush.fill(ellipse(x, y - 6.4, 16, 2.9), cloth)
    brush.fill(
        [(x - 1.6, y - 10.8), (x + 1.6, y - 10.8), (x + 1.6, y - 8), (x - 1.6, y - 8)],
        GOLD,
        outline=0.4,
    )


def _flower_wreath(brush: "Placed", x: float, y: float) -> None:
    vine = [_band(x, y, angle) for angle in range(-180, 1, 15)]
    brush.line(vine, (70, 120, 60), 1.2)
    colours: tuple[Colour, ...] = ((244, 130, 170), (255, 246, 250), (250, 210, 90))
    for place, angle in enumerate((-172, -145, -118, -90, -62, -35, -8)):
        px, py = _band(x, y, angle)
        petal = colours[place % 2]
        for turn in range(0, 360, 72):
            dx, dy = 1.5 * np.cos(np.radians(turn)), 1.5 * np.sin(np.radians(turn))
            brush.fill(ellipse(px + dx, py + dy, 1.25, 1.25), petal, outline=0.25)
        brush.flat(ellipse(px, py, 0.9, 0.9), colours[2])


def _headband(brush: "Placed", x: float, y: float) -> None:
    upper = [_band(x, y + 0.4, angle) for angle in range(-176, -3, 12)]
    lower = [(px, py + 3.2) for px, py in reversed(upper)]
    brush.fill([*upper, *lower], (214, 50, 56), outline=0.5)
    brush.fill(
        smooth([(x + 9, y - 3), (x + 14, y + 2), (x + 11.5, y + 3), (x + 9, y - 0.6)], 3),
        (190, 40, 48),
        outline=0.5,
    )


def _leaf_crown(brush: "Placed", x: float, y: float) -> None:
    vine = [_band(x, y, angle) for angle in range(-180, 1, 15)]
    brush.line(vine, (96, 70, 40), 1.3)
    greens: tuple[Colour, ...] = ((52, 150, 58), (120, 190, 62))
    angles = (-168, -12, -150, -30, -132, -48, -111, -69, -90)
    for place, angle in enumerate(angles):
        px, py = _band(x, y, angle)
        lean = np.radians(-90 + (angle + 90) * 0.72)
        along, across = (
            np.array([np.cos(lean), np.sin(lean)]),
            np.array([-np.sin(lean), np.cos(lean)]),
        )
        root = np.array([px, py + 0.6])
        length = 8.2 if place == len(angles) - 1 else 6.8
        outline = [
            *(root, root + length * 0.35 * along + 1.9 * across, root + length * along),
            root + length * 0.35 * along - 1.9 * across,
        ]
        leaf = [(float(a), float(b)) for a, b in outline]
        green = greens[place % 2]
        brush.fill(leaf, green, outline=0.45)
        brush.line([leaf[0], leaf[2]], scale(green, 0.6), 0.4)
