"""Charts inside of the page: SVG that takes the page's colours, light or dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from elf.evaluation.schema import Difference
from elf.evaluation.words import plain
from elf.watching.chart import PALETTE, Axis

WIDTH, HEIGHT = 440, 260  # px of the drawing, which grows and shrinks with its column
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 22, 40
INSET = 12  # px between the axis and the first point
CAP, RADIUS, APART = 4, 4, 5  # px: of intervals, of points, between the lines' intervals
MOST_TICKS = 8  # more strengths than these are marked at round values instead


@dataclass(frozen=True)
class Point:
    """A value over x, with its interval where it has one, and how it is said."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Line:
    """One line; its colour is the palette's by its place, or the base's gray."""

    name: str
    points: Sequence[Point]
    base: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """A chart.

    Attributes:
        title: What it shows.
        lines: Its lines.
        across: What x is.
        ticks: Strengths that are marked, 0 as the base; none: round values.
        mark: A value of x that is recommended.
        band: Least and largest x that are good.
        level: A value of y that is marked by a line of its own.
        within: Values of y that the axis holds too.
        share: Whether y are shares, shown in percent.
        logarithmic: Whether the axis of y is.
    """

    title: str
    lines: Sequence[Line]
    across: str
    ticks: Sequence[float] = ()
    mark: float | None = None
    band: Sequence[float] = ()
    level: float | None = None
    within: Sequence[float] = ()
    share: bool = False
    logarithmic: bool = False


def colour(lines: Sequence[Line], place: int) -> str:
    """Return the colour of a line: the palette's, black and gray left out, or the base's.

    A dashed line has the colour of the whole one before it.
    """
    if lines[place].base:
        return "var(--pale)"
    whole = sum(not (line.base or line.dashed) for line in lines[: place + 1])
    return PALETTE[max(0, whole - 1) % (len(PALETTE) - 2)]


def chart(plot: Plot) -> str:
    """Return a chart as a figure with its title and a legend."""
    legend = ""
    if len(plot.lines) > 1:
        legend = "".join(
            f'<li><i class="swatch{" dashed" if line.dashed else ""}"'
            f' style="color:{colour(plot.lines, place)}"></i>{escape(line.name)}</li>'
            for place, line in enumerate(plot.lines)
        )
        legend = f'<ul class="legend">{legend}</ul>'
    return (
        f'<figure class="chart"><figcaption>{escape(plot.title)}</figcaption>{legend}'
        f"{_svg(plot)}</figure>"
    )


def _svg(plot: Plot) -> str:
    ys = [y for line in plot.lines for each in line.points for y in _heights(each)]
    ys += [*plot.within, *([] if plot.level is None else [plot.level])]
    xs = [each.x for line in plot.lines for each in line.points]
    across = Axis.of(min(xs), max(xs), False, LEFT + INSET, WIDTH - RIGHT - INSET, spare=0.0)
    up = Axis.of(min(ys), max(ys), plot.logarithmic, HEIGHT - BOTTOM, TOP, spare=0.06)
    said = "; ".join(
        f"{line.name}: " + ", ".join(each.text or f"{each.y:.4g}" for each in line.points)
        for line in plot.lines
    )
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(f"{plot.title}. {said}")}">'
    ]
    if len(plot.band) == 2 and plot.band[0] < plot.band[1]:
        left, right = (max(LEFT, min(across(x), WIDTH - RIGHT)) for x in plot.band)
        parts.append(
            f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}"'
            f' height="{HEIGHT - BOTTOM - TOP}"/>'
        )
    for value, name in up.ticks:
        y = up(value)
        name = f"{100 * value:g} %" if plot.share else name.replace("-", "−")
        parts.append(_rule("grid", LEFT, y, WIDTH - RIGHT, y))
        parts.append(_label(LEFT - 7, y + 4, name, "end"))
    ticks = [(x, plain(x) if x else "base") for x in plot.ticks]
    for value, name in ticks if 0 < len(ticks) <= MOST_TICKS else across.ticks:
        parts.append(_label(across(value), HEIGHT - BOTTOM + 17, name, "middle"))
    parts.append(_label(WIDTH - RIGHT, HEIGHT - 6, plot.across, "end"))
    if plot.level is not None:
        parts.append(_rule("level", LEFT, up(plot.level), WIDTH - RIGHT, up(plot.level)))
    if plot.mark is not None:
        x = across(plot.mark)
        parts.append(_rule("mark", x, TOP, x, HEIGHT - BOTTOM))
        anchor = "end" if x > WIDTH - 90 else "start" if x < 110 else "middle"
        parts.append(_label(x, TOP - 7, f"use {plain(plot.mark)}", anchor, "mark"))
    for place, line in enumerate(plot.lines):
        shift = APART * (place - (len(plot.lines) - 1) / 2) if len(plot.ticks) else 0.0
        parts.append(_line(line, colour(plot.lines, place), across, up, shift))
    return "".join(parts) + "</svg>"


def _heights(point: Point) -> list[float]:
    return [y for y in (point.y, point.low, point.high) if y is not None]


def _line(line: Line, ink: str, across: Axis, up: Axis, shift: float) -> str:
    """Draw a line, its points, and their intervals, which are moved so that none hides another."""
    places = [(across(each.x) + shift, up(each.y), each) for each in line.points]
    track = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    dashed = ' stroke-dasharray="5 4"' if line.dashed else ""
    text = f'<g style="color:{ink}"><polyline class="line" points="{track}"{dashed}/>'
    for x, y, each in places:
        text += f"<g><title>{escape(f'{line.name}: {each.text or each.y}')}</title>"
        if each.low is not None and each.high is not None:
            low, high = up(each.low), up(each.high)
            text += _rule("span", x, low, x, high)
            text += "".join(_rule("span", x - CAP, end, x + CAP, end) for end in (low, high))
        text += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/></g>'
    return text + "</g>"


def _rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _label(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


BAR = (160, 16)  # px


def bar(change: Difference, reach: float, better: str | None) -> str:
    """Return a difference and its interval as a small bar about 0.

    Args:
        change: The difference.
        reach: The value at the bar's ends, the same for the rows of one metric.
        better: ``higher`` or ``lower``; it decides the colour of what is surely not 0.
    """
    width, height = BAR
    middle, half = width / 2, height / 2

    def place(value: float) -> float:
        return middle + (value / reach if reach else 0.0) * (middle - 5)

    text = f'<svg class="bar {verdict(change, better)}" viewBox="0 0 {width} {height}"'
    text += f' aria-hidden="true">{_rule("zero", middle, 1, middle, height - 1)}'
    if change.low is not None and change.high is not None:
        text += _rule("span", place(change.low), half, place(change.high), half)
    return text + f'<circle cx="{place(change.mean):.1f}" cy="{half}" r="3.5"/></svg>'


def verdict(change: Difference, better: str | None) -> str:
    """Return ``gain`` or ``loss`` if the interval leaves 0 out, and else ``open``."""
    if better is None or change.low is None or change.high is None:
        return "open"
    if change.low <= 0 <= change.high:
        return "open"
    return "gain" if (change.mean > 0) == (better == "higher") else "loss"
