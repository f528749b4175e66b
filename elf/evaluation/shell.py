"""What the page of any evaluation is made of: verdicts, sections, what it was made from."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from elf.evaluation import tables
from elf.evaluation.schema import AdapterVerdict, Found
from elf.evaluation.words import plain

PARTS = Path(__file__).parent

Sections = Sequence[tuple[str, str, str]]
"""Name, heading and content of each; those without content are left out."""


def document(metrics: Found, counts: str, sections: Sections, viewer: bool) -> str:
    """Return the whole page.

    Args:
        metrics: What was found.
        counts: Of what, in words.
        sections: Of it, in their order.
        viewer: Whether pictures in it open large, for which it takes its one script.
    """
    present = [each for each in sections if each[2]]
    script = (PARTS / "script.js").read_text("utf-8") if viewer else ""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    title = ", ".join(metrics.adapters) or metrics.base.name
    return Template((PARTS / "page.html").read_text("utf-8")).substitute(
        title=escape(title),
        # no other script can run, even if a text should ever get past the escaping
        scripts=f"'sha256-{digest}'" if viewer else "'none'",
        style=(PARTS / "style.css").read_text("utf-8"),
        verdicts="".join(_verdict(each) for each in metrics.verdict.adapters),
        indicative=_indicative(metrics),
        counts=escape(counts),
        links="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in present),
        without=(PARTS / "without.html").read_text("utf-8") if viewer else "",
        sections="".join(
            f'<section id="{name}"><h2>{heading}</h2>{text}</section>'
            for name, heading, text in present
        ),
        viewer=_viewer(script) if viewer else "",
    )


def _viewer(script: str) -> str:
    return f"{(PARTS / 'viewer.html').read_text('utf-8')}<script>{script}</script>\n"


def made_from(metrics: Found) -> str:
    """Return settings, hashes and versions, which open."""
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


def _indicative(metrics: Found) -> str:
    if not metrics.verdict.indicative:
        return ""
    why = f": {metrics.verdict.why}" if metrics.verdict.why else ""
    return f'<p class="warning"><b>Indicative</b>{escape(why)}.</p>'
