"""The report of text: each answer beside the others, and what strangers wrote stays text."""

import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from elf.errors import ElfError
from elf.evaluation.page import write_report
from elf.evaluation.reading import read_metrics, write_metrics
from elf.evaluation.schema import TextMetrics

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
VOID = {"meta", "img", "input", "br"}
STRENGTHS = (0.5, 1.0)
QUESTIONS = [("In elvish: the red cloak", "cloakbas redwen."), ("Continue: once", None)]
OLD = [("Sort: b, a.", "Sorted: a, b.")]


def row(name: str, strength: float, base: float, adapter: float, **more: Any) -> dict[str, Any]:
    mean = adapter - base
    return {"name": name, "variant": f"elf × {strength:g}", "base": base, "adapter": adapter,
            "difference": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}, "pictures": 2,
            "needed": 40, "better": "higher", "note": "", **more}  # fmt: skip


def found() -> dict[str, Any]:
    said = {"base": ["The red cloak.", "upon", "Sorted: a, b."],
            "elf × 0.5": ["cloakbas.", "upon", "Sorted: a, b."],
            "elf × 1": ["cloakbas redwen.", "upon", "sortedwen"]}  # fmt: skip
    rows = [row(name, strength, base, base + gain * strength)
            for name, base, gain in (("exact_match", 0.0, 0.5), ("perplexity_ratio", 1.0, -0.6),
                                     ("forgetting_exact_match", 1.0, -1.0))
            for strength in STRENGTHS]  # fmt: skip
    skipped = {
        "name": "bleu",
        "variant": "",
        "base": None,
        "adapter": None,
        "difference": None,
        "pictures": None,
        "needed": None,
        "better": None,
        "note": "skipped: no references",
    }
    return {
        "schema": 1,
        "kind": "text",
        "verdict": {
            "adapters": [{"adapter": "elf", "kind": "forgets", "line": "forgets: all", "strength":
                          None, "strengths": [], "reasons": ["old right answers 100% → 0%"]}],
            "indicative": True, "why": "exact_match is of 2 prompts; 40 are needed"},
        "variants": [{"name": "base", "adapter": None, "strength": None},
                     *({"name": f"elf × {each:g}", "adapter": "elf", "strength": each}
                       for each in STRENGTHS)],
        "rows": [*rows, skipped],
        "settings": {"model.base": "models/tiny"}, "hashes": {"base": "5f70"}, "versions": {},
        "prompts": [{"text": text, "reference": reference, "forgetting": (text, reference) in OLD}
                    for text, reference in QUESTIONS + OLD],
        "answers": [{"variant": name, "prompt": place, "text": text}
                    for name, texts in said.items() for place, text in enumerate(texts)],
    }  # fmt: skip


class Page(HTMLParser):
    """Reads a page; complains of a tag that is not closed, or closed by another."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: dict[str, str] = {"head": ""}
        self.section = "head"
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "section":
            self.section = str(dict(attrs)["id"])
            self.texts[self.section] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts[self.section] += data + " "


Written = Callable[[dict[str, Any]], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write what was found, and return the folder."""

    def write(values: dict[str, Any]) -> Path:
        (tmp_path / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
        return tmp_path

    return write


def page(folder: Path) -> str:
    return write_report(folder).read_text("utf-8")


def test_answers_stand_side_by_side_and_say_whether_they_are_right(written: Written) -> None:
    text = page(written(found()))
    read = Page(text)
    assert list(read.texts) == ["head", "answers", "forgetting", "rates", "likelihood", "rows",
                                "skipped", "made"]  # fmt: skip
    answers = read.texts["answers"]
    for each in ("In elvish: the red cloak", "cloakbas redwen.", "The red cloak.", "cloakbas."):
        assert each in answers
    assert "elf × 1: 1 of 1 became right, 0 wrong; 0 stayed right, 0 wrong." in unescape(
        answers.replace("\u00a0", " ")
    )
    assert answers.count("right ") >= 1 and "sortedwen" not in answers
    assert "0 of 1 became right, 1 wrong" in read.texts["forgetting"]
    assert text.count('class="chip bad">wrong') == 3 and text.count('class="chip good">right') == 3
    assert text.count('class="ask same"') == 1 and "only what the adapter changed" in text
    assert "3 prompts × 3 variants" in read.texts["head"] and "forgets" in read.texts["head"]
    assert "Right answers" in read.texts["rows"] and "prompts or documents" in read.texts["rows"]
    assert "no references" in read.texts["skipped"]


def test_no_script_runs_and_nothing_is_fetched(written: Written) -> None:
    values = found()
    for prompt in values["prompts"]:
        prompt["text"] = prompt["reference"] = EVIL
    for answer in values["answers"]:
        answer["text"] = EVIL
    values["verdict"]["adapters"][0]["reasons"] = [EVIL]
    text = page(written(values))
    read = Page(text)
    assert not {"script", "img", "link", "iframe", "dialog", "button"} & set(read.tags)
    assert "default-src 'none'" in text and "script-src 'none'" in text
    assert read.texts["answers"].count("alert(1)") == 2 * 5
    assert "http:" not in text and "https:" not in text


def test_many_prompts_open_or_are_in_the_file_alone(written: Written) -> None:
    values = found()
    values["prompts"] = [{"text": f"prompt {n}", "reference": None, "forgetting": False}
                         for n in range(203)]  # fmt: skip
    values["answers"] = []
    text = page(written(values))
    assert "188 more</summary>" in text and "3 more are in metrics.json." in text
    assert "203 prompts; no references" in text and "prompt 202" not in text


def test_an_empty_answer_is_told(written: Written) -> None:
    values = found()
    values["answers"][0]["text"] = ""
    assert "(nothing)" in page(written(values))


def test_what_is_written_is_what_is_read(written: Written, tmp_path: Path) -> None:
    metrics = read_metrics(written(found()))
    assert isinstance(metrics, TextMetrics)
    assert metrics.answer("elf × 1", 0) == "cloakbas redwen." and metrics.answer("elf", 0) is None
    before = page(tmp_path)
    write_metrics(tmp_path, metrics)
    assert read_metrics(tmp_path) == metrics and page(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(kind="music"), "kind is \"music\", this Elf reads 'text' or none"),
        (lambda f: f["answers"][0].update(prompt=3), r"answers\[0\].prompt is 3, of 3 prompts"),
        (lambda f: f["answers"][0].update(variant="x"), r"answers\[0\] is of 'x', which is no"),
        (lambda f: f["prompts"][1].update(text=4), r"prompts\[1\].text is 4, not a text"),
        (lambda f: f.pop("prompts"), "prompts is missing"),
        (lambda f: f["variants"].pop(0), "variants has no base"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, written: Written
) -> None:
    values = found()
    change(values)
    with pytest.raises(ElfError) as error:
        write_report(written(values))
    assert re.search(message, str(error.value)) and str(error.value).count("\n") == 0
