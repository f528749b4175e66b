"""docs/labelling.md tells the truth: its examples are what the default rules make of the scores."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from elf.labels.decisions import read_decisions
from elf.labels.explain import explain
from elf.labels.manifest import LabelFolder
from elf.taggers import Rules, Selector, TagList
from elf.taggers.names import NameSet
from elf.taggers.outputs import UNITS, CaptionOutput, ScoreOutput
from elf.taggers.scores import Scores
from elf.taggers.vocabulary import CAPTION_TAGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "labelling.md").read_text()
CHARACTERS = ("frieren", "fern_(sousou_no_frieren)")
KEY = f"{7:016x}"


def blocks(section):
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```text\n(.*?)\n```", text, re.DOTALL)


class Recalled:
    """A module that has the page's scores in its cache."""

    def __init__(self, text):
        scores, _, caption = text.partition("\ncaption: ")
        rows = re.findall(r"(\S+) (0\.\d+)", scores)
        names = [name for name, _ in rows]
        kinds = ["rating" if name in ("general", "sensitive") else
                 "character" if name in CHARACTERS else "general" for name in names]  # fmt: skip
        assert len(rows) > 15 and len(set(names)) == len(names)
        units = np.array([round(float(score) * UNITS) for _, score in rows], np.uint16)
        self.scores = ScoreOutput(Scores.of(units), 512, 512, "CPUExecutionProvider")
        self.caption = CaptionOutput(caption or None, "ok" if caption else "off")
        self.select = Selector(TagList(names, kinds), Rules())

    def recall(self, cache, sha256):
        return self.select, self.scores, self.caption


@pytest.mark.parametrize("section", ["A portrait in a forest", "A page of a comic"])
def test_an_example_is_what_the_rules_make_of_the_scores(section, tmp_path):
    scores, label, explanation = blocks(section)
    module = Recalled(scores)
    selection = module.select(module.scores.units, module.caption.text)
    assert ", ".join(selection.tags) == label
    folder = LabelFolder(tmp_path)
    folder.write({"id": KEY, "sha256": KEY, "path": "a.png", "tags": [],
                  "attributes": {"florence_caption": module.caption.text}})  # fmt: skip
    folder.close()
    said = explain(module, str(tmp_path), None, KEY).splitlines()
    assert set(explanation.splitlines()) <= set(said)


def test_the_values_in_words_are_the_defaults():
    rules = Rules()
    words = " ".join(PAGE.split())
    for phrase in (
        f"multiplied by {rules.style.weight}",
        f"needs {rules.threshold}, a character {rules.thresholds['character']}",
        f"Noise needs {rules.noise.threshold}",
        *(f"{name} by {rules.vocabularies[name].shift}" for name in ("forest", "realism")),
        f"magic and attire by {rules.vocabularies['magic'].shift}",
        f"At most {rules.max_tags} tags, {rules.max_per_category['character']} characters, "
        f"{rules.style.max_tags} style tags",
        f"At most {rules.max_caption_tags} tags for words",
        f"`{rules.trigger}` stands first",
    ):
        assert phrase in words, phrase
    assert rules.vocabularies["attire"].shift == rules.vocabularies["magic"].shift
    assert {"mossy", "pointed ears"} <= CAPTION_TAGS.keys()


def test_the_files_and_decisions_that_it_names_are_real(tmp_path):
    for path in re.findall(r"(?:configs|tests)/[\w/.-]+\w", PAGE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
    (lines,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "decisions.jsonl").write_text(lines)
    assert len(read_decisions(tmp_path)) == 2


@pytest.mark.skipif("ELF_TAG_LIST" not in os.environ, reason="ELF_TAG_LIST names no tag list")
def test_the_counts_are_those_of_the_real_list():
    names = TagList.read(os.environ["ELF_TAG_LIST"]).names
    rules = Rules()
    style = [*rules.style.tags, *(f"{prefix}*" for prefix in rules.style.prefixes)]
    sets = {
        "style": NameSet(style, rules.style.exceptions),
        "noise": NameSet(rules.noise.tags, rules.noise.exceptions),
    }
    for name, rule in rules.vocabularies.items():
        sets[name] = NameSet(rule.tags, rule.exceptions)
    table = dict(re.findall(r"\| (\w+) \| (\d+) \|", PAGE))
    assert {name: str(sum(tag in found for tag in names)) for name, found in sets.items()} == table
    assert f"{len(names):,} rows" in PAGE
