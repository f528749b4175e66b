"""What the strength does: subject against prompt, rates, and the held-out loss by timestep."""

from collections.abc import Sequence

from elf.evaluation.charts import Line, Plot, Point, chart
from elf.evaluation.schema import Found, Metrics, Variant
from elf.evaluation.words import difference, number, plain, question

SUBJECTS = ("subject_similarity", "subject_similarity_clip")  # the first that was measured
PROMPT = "prompt_similarity"
CHANGES = "Difference from the base with its 95 % interval; shaded: the strengths that are good."
SHARES = "Share of the pictures; intervals are those of the difference from the base."
RATES = ("concept_rate", "attribute_rate")


def trade_off(metrics: Metrics) -> str:
    """Return, for each adapter, what likeness is gained and what of the prompt is lost."""
    subject = next((name for name in SUBJECTS if _measured(metrics, name)), SUBJECTS[0])
    drawn = {
        adapter: [
            Line(question(name).title, points)
            for name in (subject, PROMPT)
            if len(points := changes(metrics, adapter, name)) > 1
        ]
        for adapter in metrics.adapters
    }
    return over_strength(metrics, drawn, level=0.0, share=False, note=CHANGES)


def rates(metrics: Metrics) -> str:
    """Return, for each adapter, how often its pictures show what they should."""
    drawn = {
        adapter: [
            Line(question(name).title, points, dashed=name not in RATES)
            for rate in RATES
            for name in (rate, f"{rate}_without_trigger")
            if len(points := shares(metrics, adapter, name)) > 1
        ]
        for adapter in metrics.adapters
    }
    return over_strength(metrics, drawn, level=None, share=True, note=SHARES)


def strata(metrics: Metrics) -> str:
    """Return the held-out loss by timestep, and its ratio to the base's."""
    losses: dict[str, dict[float, float]] = {}
    for each in metrics.loss:
        losses.setdefault(each.variant, {})[each.timestep] = each.loss
    base = losses.get(metrics.base.name, {})
    charts = ""
    for adapter in metrics.adapters:
        mine = [each for each in metrics.strengths(adapter) if each.name in losses]
        if not mine:
            continue
        lines = [Line("base", _points(base), base=True)] if base else []
        lines += [Line(_strength(each), _points(losses[each.name])) for each in mine]
        positive = all(point.y > 0 for line in lines for point in line.points)
        title = f"{adapter}: held-out loss"
        charts += chart(Plot(title, lines, "timestep", logarithmic=positive))
        ratios = [
            Line(_strength(each), points)
            for each in mine
            if (points := _points(_relative(losses[each.name], base)))
        ]
        if ratios:
            charts += chart(Plot(f"{adapter}: … / the base's", ratios, "timestep", level=1.0))
    return f'<div class="charts">{charts}</div>' if charts else ""


def _measured(metrics: Metrics, name: str) -> bool:
    return any(metrics.row(name, variant.name) for variant in metrics.variants)


def over_strength(
    metrics: Found,
    drawn: dict[str, list[Line]],
    level: float | None,
    share: bool,
    note: str,
    logarithmic: bool = False,
) -> str:
    """Draw a chart for each adapter, all with one axis so that they can be compared."""
    points = [each for lines in drawn.values() for line in lines for each in line.points]
    if not points:
        return ""
    ys = [y for each in points for y in (each.y, each.low, each.high) if y is not None]
    charts = ""
    for adapter, lines in drawn.items():
        if not lines:
            continue
        verdict = metrics.recommended(adapter)
        plot = Plot(
            adapter,
            lines,
            "strength",
            ticks=sorted({each.x for line in lines for each in line.points}),
            mark=verdict.strength if verdict else None,
            band=(verdict.strengths[0], verdict.strengths[-1])
            if verdict and verdict.strengths
            else (),
            level=level,
            within=(0.0, 1.0) if share else (min(ys), max(ys)),
            share=share,
            logarithmic=logarithmic,
        )
        charts += chart(plot)
    return f'<p class="note">{note}</p><div class="charts">{charts}</div>'


def changes(metrics: Found, adapter: str, name: str) -> list[Point]:
    """Return the differences from the base over the strength, the base itself first."""
    found = [Point(0.0, 0.0, text="strength 0: the base")]
    for variant, strength in _with_strength(metrics, adapter):
        row = metrics.row(name, variant.name)
        if row is not None and (change := row.change) is not None:
            text = f"strength {plain(strength)}: {difference(change, question(name))}"
            found.append(Point(strength, change.mean, change.low, change.high, text))
    return found


def shares(metrics: Found, adapter: str, name: str) -> list[Point]:
    """Return the rates over the strength; an interval is that of the difference from the base."""
    found: list[Point] = []
    for variant, strength in _with_strength(metrics, adapter):
        row = metrics.row(name, variant.name)
        if row is None or row.adapter is None:
            continue
        asked, change = question(name), row.difference
        if not found and row.base is not None:
            found.append(Point(0.0, row.base, text=f"base: {number(row.base, asked)}"))
        low = high = None
        if change is not None and row.base is not None:
            low, high = (
                None if bound is None else min(1.0, max(0.0, row.base + bound))
                for bound in (change.low, change.high)
            )
        text = f"strength {plain(strength)}: {number(row.adapter, asked)}"
        found.append(Point(strength, row.adapter, low, high, text))
    return found


def ratios(metrics: Found, adapter: str, name: str) -> list[Point]:
    """Return what is measured as a factor of the base's over the strength, the base itself first.

    None is given where one is not above 0, which a logarithm cannot show.
    """
    found = [Point(0.0, 1.0, text="strength 0: the base")]
    for variant, strength in _with_strength(metrics, adapter):
        row = metrics.row(name, variant.name)
        if row is not None and row.adapter is not None and (change := row.change) is not None:
            low, high = (None if end is None else 1 + end for end in (change.low, change.high))
            text = f"strength {plain(strength)}: × {row.adapter:.3g}"
            found.append(Point(strength, row.adapter, low, high, text))
    ys = [y for each in found for y in (each.y, each.low, each.high) if y is not None]
    return found if all(y > 0 for y in ys) else []


def _with_strength(metrics: Found, adapter: str) -> list[tuple[Variant, float]]:
    return [
        (each, each.strength) for each in metrics.strengths(adapter) if each.strength is not None
    ]


def _points(losses: dict[float, float]) -> Sequence[Point]:
    return [
        Point(timestep, loss, text=f"timestep {plain(timestep)}: {loss:.4g}")
        for timestep, loss in sorted(losses.items())
    ]


def _relative(losses: dict[float, float], base: dict[float, float]) -> dict[float, float]:
    return {
        timestep: loss / base[timestep]
        for timestep, loss in losses.items()
        if base.get(timestep, 0.0) > 0
    }


def _strength(variant: Variant) -> str:
    return variant.name if variant.strength is None else f"strength {plain(variant.strength)}"
