"""What docs/evaluation.md says is so."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from elf.evaluation import schema
from elf.evaluation.page import write_report
from elf.evaluation.tables import KINDS
from elf.evaluation.words import QUESTIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
METRICS = PAGE.split("## metrics.json")[1].split("### The metrics")[0]


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a heading by their first column."""
    text = METRICS if not heading else METRICS.split(f"\n`{heading}`\n")[1]
    rows = re.search(r"\n\| name .*?\n\n", text + "\n\n", re.DOTALL)
    assert rows is not None
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows[0].split("\n")]
    return {row[0].strip("`"): row[1:] for row in cells[3:] if row}


TABLES = [
    ("", schema.Metrics),
    ("verdict", schema.Verdict),
    ("verdict.adapters[]", schema.AdapterVerdict),
    ("variants[]", schema.Variant),
    ("rows[]", schema.Row),
    ("rows[].difference", schema.Difference),
    ("plan", schema.Plan),
    ("pictures[]", schema.Picture),
    ("nearest[]", schema.Nearest),
    ("loss[]", schema.StratumLoss),
    ("text", schema.TextMetrics),
    ("prompts[]", schema.Prompt),
    ("answers[]", schema.Answer),
]


@pytest.mark.parametrize(("heading", "kind"), TABLES, ids=[name or "all" for name, _ in TABLES])
def test_its_tables_are_what_is_read(heading: str, kind: type) -> None:
    rows, hints = table(heading), get_type_hints(kind)
    named = [name for name in rows if name != "schema"]
    fields = [field.name for field in dataclasses.fields(kind)]
    if kind is schema.TextMetrics:  # what it has in common stands above
        fields = fields[len(dataclasses.fields(schema.Found)) :]
    assert named == fields
    for name in named:
        assert ("null" in rows[name][0]) == (type(None) in get_args(hints[name])), name
        words = {str: "text", float: "number", int: "whole number", bool: "true or false"}
        inner = [each for each in get_args(hints[name]) if each in words] or [hints[name]]
        if inner[0] in words and "object" not in rows[name][0]:
            assert words[inner[0]] in rows[name][0], name


def test_its_metrics_and_kinds_are_the_known_ones() -> None:
    metrics = PAGE.split("### The metrics")[1].split("### Reading it")[0]
    assert re.findall(r"`(\w+)`(?=[^|\n]*\|[^|\n]*\|[^|\n]*\|\n)", metrics) == list(QUESTIONS)
    assert tuple(re.findall(r"`(\w+)`", table("verdict.adapters[]")["kind"][1])) == KINDS
    assert f"| `schema` | {schema.SCHEMA} |" in METRICS


def test_its_sections_are_those_of_the_report() -> None:
    described = re.findall(r"^\| ([A-Z×].*?) \|", PAGE.split("## metrics.json")[0], re.MULTILINE)
    page = (ROOT / "elf/evaluation/page.py").read_text("utf-8")
    assert described == re.findall(r'\("\w+", "([^"]+)", \w+', page)


def test_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models/wood_elf/evaluation"
    folder.mkdir(parents=True)
    verdict = {"adapter": "wood_elf", "kind": "good", "line": "good", "reasons": [],
               "strength": 0.7, "strengths": []}  # fmt: skip
    found = {
        "schema": 1,
        "verdict": {"adapters": [verdict], "indicative": False, "why": None},
        "variants": [{"name": "base", "adapter": None, "strength": None}],
        "plan": {"prompts": [], "triggered": [], "seeds": []},
        "rows": [], "pictures": [], "nearest": [], "loss": [],
        "settings": {}, "hashes": {}, "versions": {},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(snippet, "docs/evaluation.md", "exec"), {})
    assert capsys.readouterr().out == "wood_elf good 0.7\n"
    written = (folder / "report.html").read_bytes()
    shutil.copytree(folder, tmp_path / "copy")
    assert write_report(tmp_path / "copy").read_bytes() == written
