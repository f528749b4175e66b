"""Rates of what a prompt asked for, on drawings whose attributes are known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elf import world
from elf.attributes import AttributeChecker, AttributeRates, prompt_tags
from elf.errors import ElfError
from elf.report import Plan
from elf.resources import shipped

TAGGER = shipped("models/tiny/tagger")


@pytest.fixture(scope="module")
def checker() -> AttributeChecker:
    return AttributeChecker(str(TAGGER), threshold=0.5)


def drawings(count: int, **changes: str) -> tuple[list[Image.Image], list[world.Scene]]:
    random = np.random.default_rng(0)
    scenes = [replace(world.sample_scene(random), **changes) for _ in range(count)]
    return [world.draw(scene, 64, 64) for scene in scenes], scenes


def test_prompt_tags_are_the_parts_that_a_tagger_knows() -> None:
    known = {"pointy_ears", "forest", "1girl"}
    assert prompt_tags("wood_elf, 1girl, pointy ears, a nice day, forest, 1girl", known) == [
        "1girl",
        "pointy_ears",
        "forest",
    ]


def test_drawings_show_what_their_tags_say(checker: AttributeChecker) -> None:
    pictures, scenes = drawings(24)
    rates = AttributeRates(checker, trigger=None, concept=None)
    for variant in ("base", "adapter"):
        rates.add(variant, pictures)
    plan = [(", ".join(world.tags(scene)), 0) for scene in scenes]
    (row,) = rates.rows(plan)
    assert row.name == "attribute_rate_without_trigger"
    assert row.base > 0.95
    assert row.difference is not None
    assert row.difference.mean == 0


def test_the_concept_is_counted_apart_by_trigger(checker: AttributeChecker) -> None:
    without, scenes = drawings(8, headwear="none", background="forest")
    crowned, _ = drawings(8, headwear="leaf crown", background="forest")
    rates = AttributeRates(checker, trigger="wood_elf", concept="leaf_crown")
    rates.add("base", without)
    rates.add("adapter", crowned)
    plan = [
        (f"{'wood_elf, ' if number % 2 else ''}forest, leaf crown", number)
        for number in range(len(scenes))
    ]
    rows = {row.name: row for row in rates.rows(plan)}
    assert list(rows) == [
        "concept_rate",
        "attribute_rate",
        "concept_rate_without_trigger",
        "attribute_rate_without_trigger",
    ]
    for name in ("concept_rate", "concept_rate_without_trigger"):
        assert rows[name].base <= 0.25
        assert rows[name].adapter >= 0.75
    assert "leaf_crown is seen" in rows["concept_rate"].note
    assert rows["attribute_rate"].adapter > 0.9


def test_nothing_asked_for_is_no_row(checker: AttributeChecker) -> None:
    pictures, _ = drawings(1)
    rates = AttributeRates(checker, trigger=None, concept=None)
    for variant in ("base", "adapter"):
        rates.add(variant, pictures)
    assert rates.rows([("something else", 0)]) == []


def test_a_concept_that_the_tagger_does_not_know_is_refused(checker: AttributeChecker) -> None:
    with pytest.raises(ElfError, match=r"model\.concept: 'wood_elf' is no tag of the tagger"):
        AttributeRates(checker, trigger=None, concept="wood_elf")


def test_a_missing_tagger_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"tagger .*: no folder"):
        AttributeChecker(str(tmp_path / "none"), 0.5)


def test_rates_of_prompts_are_nan_free() -> None:
    plan = Plan([("a", 0), ("a", 1), ("b", 0), ("b", 1)])
    table = plan.table(np.array([1.0, 0.0, math.nan, math.nan]))
    assert table.tolist() == [[1.0, 0.0]]
