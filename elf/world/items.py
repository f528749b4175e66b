"""What the figure holds in its hand."""

from typing import TYPE_CHECKING

from elf.world.painter import Colour, Point, ellipse

if TYPE_CHECKING:
    from elf.world.figure import Placed

STEEL: Colour = (206, 214, 226)
GOLD: Colour = (226, 172, 50)
WOOD: Colour = (124, 82, 46)


def item(brush: "Placed", kind: str, hand: Point) -> None:
    """Paint one of `scene.ITEMS`; the hand comes over it."""
    {"sword": _sword, "staff": _staff, "book": _book, "lantern": _lantern}[kind](brush, *hand)


def _sword(brush: "Placed", x: float, y: float) -> None:
    blade = [(x - 1.5, y - 3), (x - 1.5, y - 28), (x, y - 32), (x + 1.5, y - 28), (x + 1.5, y - 3)]
    brush.fill(blade, STEEL, outline=0.55, gloss=0.7)
    brush.line([(x, y - 29), (x, y - 4)], (150, 160, 178), 0.6)
    guard = [(x - 4.6, y - 4), (x + 4.6, y - 4), (x + 4.6, y - 2), (x - 4.6, y - 2)]
    brush.fill(guard, GOLD, outline=0.5, gloss=0.4)
    brush.fill([(x - 0.9, y - 2), (x + 0.9, y - 2), (x + 0.9, y + 5), (x - 0.9, y + 5)], WOOD)
    brush.fill(ellipse(x, y + 5.6, 1.4, 1.4), GOLD, outline=0.4)


def _staff(brush: "Placed", x: float, y: float) -> None:
    pole = [(x - 1, y - 30), (x + 1, y - 30), (x + 1.1, 72), (x - 1.1, 72)]
    brush.fill(pole, WOOD, outline=0.55)
    brush.glow(x, y - 33, 9, (120, 240, 240), 0.85)
    brush.fill(ellipse(x, y - 33, 3.6, 3.6), (80, 216, 226), gloss=0.7)


def _book(brush: "Placed", x: float, y: float) -> None:
    left, top, right, low = x - 6, y - 7, x + 5, y + 5.5
    cover = [(left, top), (right, top - 1), (right, low - 1), (left, low)]
    pages = [(right - 1, top), (right + 1.4, top), (right + 1.4, low - 2), (right - 1, low - 1)]
    brush.fill(pages, (250, 242, 216), outline=0.4)
    brush.fill(cover, (150, 84, 40))
    brush.fill(
        [
            (left + 2.4, top + 2.4),
            (right - 2, top + 1.8),
            (right - 2, top + 5),
            (left + 2.4, top + 5.6),
        ],
        (240, 216, 140),
        outline=0.3,
    )


def _lantern(brush: "Placed", x: float, y: float) -> None:
    top, low = y + 3, y + 13
    brush.glow(x, y + 8, 13, (255, 214, 110), 0.75)
    brush.line([(x, y), (x, top)], (60, 56, 60), 0.9)
    glass = [(x - 3.2, top + 1.6), (x + 3.2, top + 1.6), (x + 3.2, low), (x - 3.2, low)]
    brush.fill(glass, (255, 226, 110), outline=0.7)
    dark: Colour = (66, 60, 66)
    brush.fill([(x - 4, top + 2), (x, top - 1), (x + 4, top + 2)], dark, outline=0.4)
    brush.fill(
        [(x - 4, low - 1), (x + 4, low - 1), (x + 4, low + 1), (x - 4, low + 1)], dark, outline=0.4
    )
    brush.line([(x, top + 1.6), (x, low)], dark, 0.6)
