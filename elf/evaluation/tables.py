"""The measured rows as a table, what was skipped, and the adapters beside each other."""

from collections.abc import Sequence
from html import escape

from elf.evaluation.charts import bar, verdict
from elf.evaluation.schema import Found, Metrics, Row, Variant
from elf.evaluation.words import QUESTIONS, difference, label, number, plain, question, words

ARROWS = {"higher": "↑ higher is better", "lower": "↓ lower is better"}
KINDS = ("good", "no_change", "undertrained", "memorised", "ignores_prompts", "forgets", "unclear")
SWITCHED = ("concept_rate", "attribute_rate")


def measured(metrics: Found) -> str:
    """Return the table of all rows that were measured, by metric."""
    rows = [row for row in metrics.rows if not row.skipped]
    if not rows:
        return ""
    shown = {each.name for each in (metrics.base, *metrics.shown_variants)}
    bodies = "".join(
        _metric(metrics, name, [row for row in rows if row.name == name], shown)
        for name in _names(rows)
    )
    switch = ""
    if any(row.variant not in shown for row in rows):
        switch = (
            '<input type="checkbox" id="every"><label for="every">'
            "also the strengths that are not shown above</label>"
        )
    of = "pictures" if isinstance(metrics, Metrics) else "prompts or documents"
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("", "base", "adapter", "difference [95 %]", "", of)
    )
    return (
        f'{switch}<table class="rows"><thead><tr>{head}</tr></thead>{bodies}</table>'
        '<p class="note">Bars: difference from the base and its interval about 0; green: surely'
        f" better, red: surely worse. Gray rows are of fewer {of} than make them valid.</p>"
    )


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the metrics that there are: known ones in their order, then the others."""
    found = list(dict.fromkeys(row.name for row in rows))
    return [name for name in QUESTIONS if name in found] + [
        name for name in found if name not in QUESTIONS
    ]


def _metric(metrics: Found, name: str, rows: Sequence[Row], shown: set[str]) -> str:
    asked = question(name)
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    said = [asked.meaning, ARROWS.get(rows[0].better or "", ""), *notes[: len(notes) == 1]]
    other = "" if any(row.variant in shown for row in rows) else " other"
    ends = [
        abs(end)
        for row in rows
        if (change := row.change) is not None
        for end in (change.mean, change.low, change.high)
        if end is not None
    ]
    lines = "".join(
        _line(
            row,
            label(metrics.by_name[row.variant]),
            max(ends, default=0.0),
            noted=len(notes) > 1,
            shown=row.variant in shown,
        )
        for row in rows
    )
    return (
        f'<tbody><tr class="metric{other}"><th colspan="6" scope="rowgroup">{escape(asked.title)}'
        f" <code>{escape(name)}</code>"
        f'<span class="note">{escape(" · ".join(filter(None, said)))}</span></th></tr>'
        f"{lines}</tbody>"
    )


def _line(row: Row, variant: str, reach: float, noted: bool, shown: bool) -> str:
    asked, change = question(row.name), row.change
    kinds = [
        *(["indicative"] if row.indicative else []),
        *([] if shown else ["other"]),
    ]
    counted = "" if row.pictures is None else str(row.pictures)
    if row.needed is not None:
        counted = f'{row.pictures} <span class="wide">({row.needed} needed)</span>'
    if row.indicative:
        counted = f'{row.pictures or 0} of {row.needed} <span class="wide">needed </span>'
        counted += '<span class="chip">indicative</span>'
    note = f'<span class="note">{escape(row.note)}</span>' if noted and row.note else ""
    drawn = "" if change is None else bar(change, reach, row.better)
    said = ""
    if change is not None:
        kind = verdict(change, row.better)
        said = f'<span class="{kind}">{difference(change, asked)}</span>'
    return (
        f'<tr class="{" ".join(kinds)}"><th scope="row">{escape(variant)}{note}</th>'
        f'<td data-is="base">{"" if row.base is None else number(row.base, asked)}</td>'
        f'<td data-is="adapter">{number(row.adapter, asked)}</td>'
        f'<td data-is="difference">{said}</td>'
        f'<td data-is="bar">{drawn}</td>'
        f'<td data-is="pictures">{counted}</td></tr>'
    )


def skipped(metrics: Found) -> str:
    """Return what could not be measured, each with what it needs."""
    rows = [row for row in metrics.rows if row.skipped]
    needs: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        note = row.note.removeprefix("skipped:").strip() or "no reason was given"
        needs.setdefault((row.name, note), []).append(row.variant)
    all_of = {each.name for each in metrics.variants if each.adapter is not None}
    items = ""
    for (name, note), variants in needs.items():
        whose = ""  # of all, or of no variant in particular
        if "" not in variants and not all_of <= set(variants):
            labels = (label(metrics.by_name[each]) for each in dict.fromkeys(variants))
            whose = f" ({', '.join(labels)})"
        items += (
            f"<li><b>{escape(question(name).title)}</b> <code>{escape(name)}</code>"
            f"{escape(whose)}: {escape(note)}</li>"
        )
    return f"<ul>{items}</ul>" if items else ""


def compared(metrics: Found) -> str:
    """Return several adapters beside each other, each at the strength that is shown."""
    variants = metrics.shown_variants
    names = _names(
        [
            row
            for row in metrics.rows
            if not row.skipped and any(row.variant == each.name for each in variants)
        ]
    )
    if len(variants) < 2 or not names:
        return ""
    head = "".join(_adapter(metrics, each) for each in variants)
    body = "".join(_across(name, [metrics.row(name, each.name) for each in variants])
                   for name in names)  # fmt: skip
    return (
        f'<div class="scroll"><table class="compared"><thead><tr><td></td>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="note">Values, and below them the difference'
        " from the base. Best: better than the others, and their intervals do not touch.</p>"
    )


def _adapter(metrics: Found, variant: Variant) -> str:
    said = metrics.recommended(variant.adapter or "")
    chip = "" if said is None else kind_chip(said.kind)
    at = "" if variant.strength is None else f"× {plain(variant.strength)}"
    return (
        f'<th scope="col">{escape(variant.adapter or variant.name)}'
        f'<span class="note">{at}</span>{chip}</th>'
    )


def kind_chip(kind: str) -> str:
    """Return a verdict's kind as a label in its colour."""
    known = kind if kind in KINDS else "unclear"
    return f'<span class="kind {known}">{escape(words(kind))}</span>'


def _across(name: str, rows: Sequence[Row | None]) -> str:
    asked, first = question(name), best(rows)
    cells = ""
    for place, row in enumerate(rows):
        if row is None:
            cells += "<td>–</td>"
            continue
        kinds = [*(["best"] if place == first else []), *(["indicative"] if row.indicative else [])]
        mark = ' <span class="chip good">best</span>' if place == first else ""
        change = row.change
        below = "" if change is None else (
            f'<span class="note {verdict(change, row.better)}">{difference(change, asked)}</span>'
        )  # fmt: skip
        cells += f'<td class="{" ".join(kinds)}">{number(row.adapter, asked)}{mark}{below}</td>'
    return (
        f'<tr><th scope="row">{escape(asked.title)}'
        f'<span class="note"><code>{escape(name)}</code></span></th>{cells}</tr>'
    )


def best(rows: Sequence[Row | None]) -> int | None:
    """Return the place of the row whose interval lies on the better side of all the others'."""
    changes = [row.change if row is not None else None for row in rows]
    better = next((row.better for row in rows if row is not None), None)
    if better not in ARROWS or len(rows) < 2:
        return None
    spans = []
    for change in changes:
        if change is None or change.low is None or change.high is None:
            return None
        low, high = change.low, change.high
        spans.append((low, high) if better == "higher" else (-high, -low))
    for place, (low, _) in enumerate(spans):
        if all(low > high for other, (_, high) in enumerate(spans) if other != place):
            return place
    return None


def switched(metrics: Metrics) -> str:
    """Return how often the concept shows with the trigger and without it, base and adapters."""
    lines = ""
    for variant in metrics.shown_variants:
        for name in SWITCHED:
            on = metrics.row(name, variant.name)
            off = metrics.row(f"{name}_without_trigger", variant.name)
            if on is None or off is None:
                continue
            asked = question(name)
            values = "".join(
                f"<td>{number(value, asked)}</td>"
                for value in (on.base, on.adapter, off.base, off.adapter)
            )
            lines += (
                f'<tr><th scope="row">{escape(label(variant))}'
                f'<span class="note">{escape(asked.title)}</span></th>{values}</tr>'
            )
    if not lines:
        return ""
    return (
        '<div class="scroll"><table class="plain"><thead>'
        '<tr><td></td><th colspan="2" scope="colgroup">trigger on</th>'
        '<th colspan="2" scope="colgroup">trigger off</th></tr>'
        '<tr><td></td><th scope="col">base</th><th scope="col">adapter</th>'
        '<th scope="col">base</th><th scope="col">adapter</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
