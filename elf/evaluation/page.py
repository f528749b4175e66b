"""The report of `elf test`: one ``report.html`` that opens from the disk and needs nothing else."""

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from elf.evaluation import curves, galleries, tables
from elf.evaluation.galleries import Album
from elf.evaluation.reading import read_metrics
from elf.evaluation.schema import AdapterVerdict, Metrics
from elf.evaluation.words import count, plain
from elf.files import explain_disk_errors, write_atomic

REPORT = "report.html"
PARTS = Path(__file__).parent


def write_report(folder: Path) -> Path:
    """Write the page of what `elf test` found into its folder, and return its path.

    The same folder makes the same bytes. A picture that is missing or damaged leaves a gap that
    says so.

    Args:
        folder: Holds ``metrics.json`` and the pictures that it names.

    Raises:
        ElfError: If ``metrics.json`` is missing, damaged, of another schema or contradicts
            itself, if none of its pictures can be shown, or if the disk refuses.
    """
    metrics = read_metrics(folder)
    text = page(metrics, Album(folder, metrics))
    with explain_disk_errors(
        folder / REPORT, "the report was not written", "metrics.json is whole: make room and repeat"
    ):
        write_atomic(folder / REPORT, text)
    return folder / REPORT


def page(metrics: Metrics, album: Album) -> str:
    """Return the whole page; sections without data are left out."""
    sections = (
        ("pairs", "Base and adapter", galleries.pairs(album)),
        ("strengths", "Strength × seed", galleries.strengths(album)),
        ("curve", "Subject against prompt", curves.trade_off(metrics)),
        ("rates", "What the pictures show", curves.rates(metrics)),
        ("trigger", "Trigger on and off", tables.switched(metrics) + galleries.trigger(album)),
        ("nearest", "Nearest training pictures", galleries.nearest(album)),
        ("loss", "Validation loss by timestep", curves.strata(metrics)),
        ("rows", "All figures", tables.measured(metrics)),
        ("skipped", "Not measured", tables.skipped(metrics)),
        ("compared", "Adapters compared", tables.compared(metrics)),
        ("made", "Made from", _made_from(metrics)),
    )
    present = [each for each in sections if each[2]]
    script = (PARTS / "script.js").read_text("utf-8")
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    title = ", ".join(metrics.adapters) or metrics.base.name
    return Template((PARTS / "page.html").read_text("utf-8")).substitute(
        title=escape(title),
        # no other script can run, even if a text should ever get past the escaping
        script_hash=base64.b64encode(digest).decode("ascii"),
        style=(PARTS / "style.css").read_text("utf-8"),
        script=script,
        verdicts="".join(_verdict(each) for each in metrics.verdict.adapters),
        indicative=_indicative(metrics),
        counts=escape(_counts(metrics)),
        links="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in present),
        sections="".join(
            f'<section id="{name}"><h2>{heading}</h2>{text}</section>'
            for name, heading, text in present
        ),
    )


def _verdict(each: AdapterVerdict) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in each.reasons)
    use = "No strength is recommended"
    if each.strength is not None:
        use = f"Use strength <b>{plain(each.strength)}</b>"
        if each.strengths and each.strengths[0] < each.strengths[-1]:
            ends = (plain(each.strengths[0]), plain(each.strengths[-1]))
            use += f" <small>({ends[0]} to {ends[1]} are as good)</small>"
    known = each.kind if each.kind in tables.KINDS else "unclear"
    return (
        f'<article class="verdict {known}"><p class="who">{tables.kind_chip(each.kind)}'
        f'{escape(each.adapter)}</p><p class="say">{use}</p>'
        f"{f'<ul>{reasons}</ul>' if reasons else ''}</article>"
    )


def _indicative(metrics: Metrics) -> str:
    if not metrics.verdict.indicative:
        return ""
    why = f": {metrics.verdict.why}" if metrics.verdict.why else ""
    return f'<p class="warning"><b>Indicative</b>{escape(why)}.</p>'


def _counts(metrics: Metrics) -> str:
    plan = metrics.plan
    parts = [count(len(plan.prompts), "prompt"), count(len(plan.seeds), "seed")]
    text = f"{' × '.join([*parts, count(len(metrics.variants), 'variant')])}"
    return f"{text} · {count(len(metrics.pictures), 'picture')}"


def _made_from(metrics: Metrics) -> str:
    tables_of = (
        ("settings", metrics.settings),
        ("hashes (SHA-256)", metrics.hashes),
        ("versions", metrics.versions),
    )
    return "".join(
        f"<details><summary>{name}</summary>{_pairs(values)}</details>"
        for name, values in tables_of
        if values
    )


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(_value(value))}</td></tr>'
        for key, value in values.items()
    )
    return f'<table class="values">{rows}</table>'


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(value)
