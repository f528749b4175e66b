"""A line chart as a picture, drawn with Pillow alone.

A plotting library would be the largest of Elf's dependencies after PyTorch, for eight charts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from elf.watching.fonts import font, width

Points = Sequence[tuple[float, float]]

INK, PALE, GRID, PAPER = "#1b1b1f", "#6f6f78", "#e6e6ea", "#ffffff"
# Okabe & Ito, Color Universal Design (2008): told apart by colour-blind eyes too
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8a8a92")
SIZE = (960, 420)
FINER = 3  # drawn so many times larger, then reduced: smooth lines
MARGIN = (84, 72, 24, 48)  # left, top, right, bottom; px
TICKS = 6
MOST_POINTS = 2000
DECADES = 6
"""Powers of ten that a logarithmic axis shows at most, counted from the largest value."""


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: In the legend; empty: none.
        points: (x, y), x ascending.
        color: Of the line; the palette's by its place if not given.
        faint: Whether it is the background of another.
        dots: Whether its points are marked.
        band: (x, low, high) of the interval that it is known to, shaded behind all lines.
    """

    name: str
    points: Points
    color: str | None = None
    faint: bool = False
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """A chart of several lines over the optimizer steps.

    Attributes:
        title: What it shows.
        series: The lines.
        level: A value that is marked by a line of its own.
        logarithmic: Whether the values' axis is; only values within `DECADES` of the largest are
            shown then.
        zero: Whether the axis begins at 0.
        ring: (x, y) of a point that is ringed, and what is written beside it.
        whole: Whether the steps' axis begins at 0; else at the first step.
    """

    title: str
    series: Sequence[Series] = field(default_factory=tuple)
    level: float | None = None
    logarithmic: bool = False
    zero: bool = False
    ring: tuple[float, float, str] | None = None
    whole: bool = True


def draw(chart: Chart) -> Image.Image:
    """Return the chart's picture, 960 × 420 px."""
    least = _least(chart.series) if chart.logarithmic else -math.inf
    shown = [
        (each, points, each.color or PALETTE[place % len(PALETTE)])
        for place, each in enumerate(chart.series)
        if (points := _usable(each.points, least))
    ]
    large = Image.new("RGB", (SIZE[0] * FINER, SIZE[1] * FINER), PAPER)
    pen = ImageDraw.Draw(large)
    left, top, right, bottom = MARGIN
    box = (left, top, SIZE[0] - right, SIZE[1] - bottom)
    xs = [x for _, points, _ in shown for x, _ in points] or [0.0, 1.0]
    ys = [y for _, points, _ in shown for _, y in points] or [0.1, 1.0]
    bands = [(_finite(each.band), color) for each, _, color in shown if not chart.logarithmic]
    ys += [y for band, _ in bands for _, *ends in band for y in ends]
    if chart.level is not None:
        ys.append(chart.level)
    first = min([0.0, *xs]) if chart.whole else min(xs)
    spare = 0.0 if chart.whole and chart.ring is None else 0.04  # a ring keeps off the edge
    axis_x = Axis.of(first, max(xs), False, box[0], box[2], spare)
    low = 0.0 if chart.zero and not chart.logarithmic else min(ys)
    axis_y = Axis.of(low, max(ys), chart.logarithmic, box[3], box[1], spare=0.06)
    labels: list[tuple[tuple[float, float], str, str]] = []
    for band, color in bands:
        lows = [(axis_x(x) * FINER, axis_y(low) * FINER) for x, low, _ in band]
        highs = [(axis_x(x) * FINER, axis_y(high) * FINER) for x, _, high in band]
        if len(band) == 1:
            pen.line([*lows, *highs], _faded(color), 2 * FINER)
        elif band:
            pen.polygon([*lows, *reversed(highs)], _faded(color, 8))
    for value, name in axis_y.ticks:
        y = axis_y(value)
        pen.line([(box[0] * FINER, y * FINER), (box[2] * FINER, y * FINER)], GRID, FINER)
        labels.append(((box[0] - 10, y), name, "rm"))
    for value, name in axis_x.ticks:
        labels.append(((axis_x(value), box[3] + 10), name, "mt"))
    labels.append(((box[2], SIZE[1] - 8), "optimizer step", "rb"))
    pen.line([(box[0] * FINER, box[3] * FINER), (box[2] * FINER, box[3] * FINER)], PALE, FINER)
    if chart.level is not None:
        y = axis_y(chart.level)
        pen.line([(box[0] * FINER, y * FINER), (box[2] * FINER, y * FINER)], PALE, 2 * FINER)
    for each, points, color in sorted(shown, key=lambda item: not item[0].faint):
        line = [(axis_x(x) * FINER, axis_y(y) * FINER) for x, y in points]
        ink = _faded(color) if each.faint else color
        pen.line(line, ink, (1 if each.faint else 2) * FINER, joint="curve")
        if each.dots or len(line) == 1:
            for x, y in line:
                radius = 3.5 * FINER
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), ink)
    if chart.ring is not None:
        x, y, radius = axis_x(chart.ring[0]) * FINER, axis_y(chart.ring[1]) * FINER, 8 * FINER
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=INK, width=2 * FINER)
    picture = large.resize(SIZE, Image.Resampling.BOX)
    pen = ImageDraw.Draw(picture)
    plain = font(15)
    for place, text, anchor in labels:
        pen.text(place, text, PALE, plain, anchor=anchor)
    if chart.ring is not None:
        _beside(pen, (axis_x(chart.ring[0]), axis_y(chart.ring[1])), chart.ring[2], box)
    title = font(18, bold=True)
    pen.text((20, 26), chart.title, INK, title, anchor="lm")
    if not shown:
        pen.text((SIZE[0] / 2, SIZE[1] / 2), "nothing was logged yet", PALE, plain, anchor="mm")
    _legend(pen, [(each.name, color) for each, _, color in shown if each.name],
            20 + width(chart.title, title) + 28)  # fmt: skip
    return picture


@dataclass(frozen=True)
class Axis:
    """Maps values to px, and says where its ticks are."""

    low: float
    high: float
    logarithmic: bool
    start: float
    end: float
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(
        cls, low: float, high: float, logarithmic: bool, start: float, end: float, spare: float
    ) -> "Axis":
        """Return the axis of values from low to high that lies from one px to another.

        A share of the range stays spare at its ends, but not below 0.
        """
        if logarithmic:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
            pad = abs(low) * 0.1 or 0.5
            low, high = low - pad, high + pad
        room = spare * (high - low)
        bottom = low if low == 0 else low - room
        top = high + room
        ticks = _decades(bottom, top) if logarithmic else []
        if len(ticks) < 2:
            ticks = _round_values(*((10**bottom, 10**top) if logarithmic else (bottom, top)))
        return cls(bottom, top, logarithmic, start, end, ticks)

    def __call__(self, value: float) -> float:
        """Return a value's place, px."""
        place = math.log10(value) if self.logarithmic else value
        return self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start)


def _round_values(low: float, high: float) -> list[tuple[float, str]]:
    """Return at most so many ticks at multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [number * step for number in range(first, last + 1)]
    if max(map(abs, values), default=0) < 1e-3 or digits > 6:
        return [(value, f"{value:.3g}" if value else "0") for value in values]
    return [(value, f"{value:,.{digits}f}") for value in values]


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Return ticks at powers of ten, and at twice and five times those if there are few."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 3 else (1,)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [(value, f"{value:g}") for value in values if low <= math.log10(value) <= high]


def _least(series: Sequence[Series]) -> float:
    """Return the least value that a logarithmic axis shows.

    Samples of `data.prior_preservation` begin with an error of rounding alone, 1e-13, which would
    press all other lines into the top of the chart.
    """
    values = [y for each in series for _, y in each.points if math.isfinite(y)]
    # a largest value of 0 or less has no logarithm: nothing is shown
    largest = max(values, default=0.0)
    return largest / 10.0**DECADES or math.ulp(0.0) if largest > 0 else math.inf


def _usable(points: Points, least: float) -> Points:
    """Return the points that can be drawn, thinned to what a picture shows."""
    good = [(x, y) for x, y in points if math.isfinite(y) and y >= least]
    stride = -(-len(good) // MOST_POINTS) or 1
    return good[::stride]


def _finite(band: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return what can be drawn of a band."""
    return [each for each in band if all(map(math.isfinite, each))]


def _faded(color: str, parts: int = 4) -> tuple[int, int, int]:
    """Return a colour mixed with white, of so many parts one is the colour."""
    red, green, blue = (255 - int(color[place : place + 2], 16) for place in (1, 3, 5))
    return (255 - red // parts, 255 - green // parts, 255 - blue // parts)


def _beside(
    pen: ImageDraw.ImageDraw, point: tuple[float, float], text: str, box: tuple[int, int, int, int]
) -> None:
    """Write below a point, above it at the box's foot, and within the box's sides; box in px."""
    x, y = point
    half = width(text, font(15)) / 2
    x = min(max(x, box[0] + half + 4), box[2] - half - 4)
    low = y + 36 > box[3]
    pen.text((x, y - 14 if low else y + 14), text, INK, font(15), anchor="mb" if low else "mt")


def _legend(pen: ImageDraw.ImageDraw, names: Sequence[tuple[str, str]], after: float) -> None:
    """Write the lines' names beside the title, or below it, smaller if they are many."""

    def needed(size: int) -> float:
        return sum(width(name, font(size)) + 2.4 * size for name, _ in names)

    end = SIZE[0] - MARGIN[2]
    beside = after + needed(15) <= end
    size = 15 if beside else next((s for s in (15, 13, 11) if 20 + needed(s) <= end), 9)
    x, y = (end - needed(size), 26) if beside else (20.0, 52)
    for name, color in names:
        pen.rounded_rectangle((x, y - 2, x + 0.9 * size, y + 3), 2, color)
        pen.text((x + 1.2 * size, y), name, INK, font(size), anchor="lm")
        x += width(name, font(size)) + 2.4 * size
