"""The place behind the figure, by day, at sunset and at night."""

import numpy as np

from elf.world.painter import Colour, Painter, ellipse, mix, scale, smooth

SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((112, 178, 236), (206, 232, 248)),
    "sunset": ((206, 96, 116), (255, 190, 110)),
    "night": ((14, 18, 52), (48, 58, 112)),
}
"""Sky at the top and at the horizon."""

PAPERS: dict[str, Colour] = {
    "day": (252, 251, 246),
    "sunset": (255, 222, 192),
    "night": (186, 194, 226),
}
"""Paper of a line drawing: white, peach or slate, so that it tells the time as well."""

GRADES: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 0.84, 0.72),
    "night": (0.42, 0.48, 0.72),
}
"""How the light of the time of day colours the ground and what stands on it."""

Random = np.random.Generator


def backdrop(painter: Painter, place: str, time: str, random: Random) -> None:
    """Paint sky, place and weather; `place` is one of `scene.BACKGROUNDS`."""
    painter.gradient(*SKIES[time])
    if place == "plain":
        _plain(painter, time)
        return
    _sky(painter, time, random)
    {"forest": _forest, "snow": _snow, "city": _city, "beach": _beach}[place](painter, time, random)
    if painter.style == "realistic":
        painter.blur(0.45)


def graded(colour: Colour, time: str) -> Colour:
    """A colour under the light of the time of day."""
    red, green, blue = (
        round(channel * factor) for channel, factor in zip(colour, GRADES[time], strict=True)
    )
    return red, green, blue


def _plain(painter: Painter, time: str) -> None:
    soft = {"day": (236, 236, 232), "sunset": (246, 178, 140), "night": (44, 44, 74)}[time]
    dark: Colour = scale(soft, 0.86)
    painter.gradient(soft, dark)


def _sky(painter: Painter, time: str, random: Random) -> None:
    width = painter.width_units
    side = random.choice((-1, 1))
    x = width / 2 + side * width * random.uniform(0.3, 0.4)
    if time == "night":
        for _ in range(14):
            sx, sy = random.uniform(0, width), random.uniform(0, 34)
            painter.flat(ellipse(sx, sy, 0.45, 0.45), (240, 240, 255))
        moon = random.uniform(6, 11)
        painter.glow(x, moon, 11, (190, 200, 250), 0.5)
        painter.fill(ellipse(x, moon, 4, 4), (246, 244, 214), outline=0.5)
        return
    sun = random.uniform(26, 33) if time == "sunset" else random.uniform(6, 11)
    colour: Colour = (255, 214, 120) if time == "sunset" else (255, 246, 190)
    painter.glow(x, sun, 15, colour, 0.8)
    painter.fill(ellipse(x, sun, 4.5, 4.5), colour, outline=0.5)
    if time == "day":
        for _ in range(2):
            cx, cy = random.uniform(0, width), random.uniform(5, 20)
            for shift, radius in ((-3.5, 2.0), (0.0, 3.0), (3.5, 2.2)):
                painter.flat(ellipse(cx + shift, cy, radius * 1.4, radius), (250, 252, 255))


def _ground(painter: Painter, y: float, colour: Colour, random: Random) -> None:
    width = painter.width_units
    top = [(x, y + random.uniform(-2, 2)) for x in np.linspace(-6, width + 6, 6)]
    painter.fill(smooth([*top, (width + 9, 74), (-9, 74)]), colour, outline=0.5)


def _places(painter: Painter, count: int, random: Random) -> list[float]:
    """Where things stand: from side to side, the middle last so that it is in front."""
    width = painter.width_units
    spots = (np.arange(count) + random.uniform(0.2, 0.8, count)) / count * width
    return [float(spot) for spot in sorted(spots, key=lambda spot: -abs(spot - width / 2))]


def _forest(painter: Painter, time: str, random: Random) -> None:
    _ground(painter, 36, graded((58, 104, 66), time), random)
    for x in _places(painter, 6, random):
        foot, size = random.uniform(46, 54), random.uniform(7, 10)
        trunk = graded((104, 72, 46), time)
        painter.fill(
            [(x - 1.5, foot), (x - 1, 14), (x + 1, 14), (x + 1.5, foot)], trunk, outline=0.5
        )
        leaf = graded(mix((44, 110, 54), (94, 150, 60), random.random()), time)
        for shift, rise, part in ((-3.5, 20, 0.75), (3.5, 19, 0.75), (0, 13, 1.0)):
            painter.fill(
                ellipse(x + shift, rise + size * 0.3, size * part, size * part * 0.9),
                leaf,
                outline=0.5,
            )
    _ground(painter, 52, graded((86, 140, 72), time), random)


def _snow(painter: Painter, time: str, random: Random) -> None:
    _ground(painter, 36, graded((214, 226, 242), time), random)
    for x in _places(painter, 4, random):
        foot = random.uniform(42, 50)
        for level, half in ((0, 6.5), (6, 5.2), (12, 3.8)):
            y = foot - level
            branch = [(x - half, y), (x, y - 10), (x + half, y)]
            painter.fill(branch, graded((70, 112, 104), time), outline=0.5)
            cap = [(x - half * 0.5, y - 5), (x, y - 10), (x + half * 0.5, y - 5), (x, y - 6.5)]
            painter.flat(cap, graded((246, 250, 255), time))
    _ground(painter, 50, graded((244, 248, 255), time), random)
    flake: Colour = (255, 255, 255) if painter.style != "lineart" else (150, 164, 196)
    for _ in range(26):
        x, y = random.uniform(0, painter.width_units), random.uniform(0, 62)
        painter.flat(ellipse(x, y, 0.7, 0.7), flake)


def _city(painter: Painter, time: str, random: Random) -> None:
    lit: Colour = (255, 222, 120) if time != "day" else (206, 226, 240)
    for row, (base, tone) in enumerate((((46, 40)), (58, 60))):
        for x in _places(painter, 5, random):
            half, top = random.uniform(4.5, 6.5), random.uniform(8, 26) + 8 * row
            grey = tone + 70 + int(random.integers(0, 30))
            wall = graded((grey, grey - 8, grey + 6), time)
            painter.fill(
                [(x - half, top), (x + half, top), (x + half, base), (x - half, base)],
                wall,
                outline=0.5,
            )
            for y in np.arange(top + 2, base - 4, 4.5):
                for shift in (-2.6, 0.6):
                    if random.random() < 0.7:
                        left = x + shift
                        window = [(left, y), (left + 2, y), (left + 2, y + 2.4), (left, y + 2.4)]
                        painter.flat(window, lit)
    _ground(painter, 57, graded((120, 118, 122), time), random)


def _beach(painter: Painter, time: str, random: Random) -> None:
    width = painter.width_units
    sea = graded((44, 130, 190), time)
    painter.fill([(-4, 36), (width + 4, 36), (width + 4, 60), (-4, 60)], sea, outline=0.5)
    for _ in range(7):
        x, y = random.uniform(0, width), random.uniform(38, 48)
        painter.line([(x - 3, y), (x + 3, y)], graded((180, 222, 240), time), 0.6)
    _ground(painter, 50, graded((238, 208, 150), time), random)
    x = width * (0.1 if random.random() < 0.5 else 0.9)
    lean = 3 if x < width / 2 else -3
    trunk = [(x - 1.4, 56), (x + lean - 0.9, 20), (x + lean + 0.9, 20), (x + 1.4, 56)]
    painter.fill(trunk, graded((136, 96, 58), time), outline=0.5)
    for angle in (200, 235, 290, 330, 160, 20):
        radians = np.radians(angle)
        tip_x, tip_y = x + lean + 6 * np.cos(radians), 20 + 6 * np.sin(radians)
        painter.fill(
            ellipse(tip_x, tip_y, 6.5, 1.7, angle), graded((56, 132, 62), time), outline=0.4
        )
