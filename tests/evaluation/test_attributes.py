"""Rates of what a prompt asked for, on drawings whose attributes are known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elf import world
from elf.embedders import LoadedTagger, TagScores
from elf.errors import ElfError
from elf.evaluation.attributes import (
    AttributeChecker,
    prompt_tags,
    rate_rows,
    refuse_unknown_concept,
)
from elf.evaluation.plan import Plan
from elf.resources import shipped
from elf.tiny.timm_tagger import build as build_tagger

Tags = Callable[[list[Image.Image]], list[set[str]]]
TAGGER = shipped("models/tiny/tagger")


@pytest.fixture(scope="module")
def tagger() -> LoadedTagger:
    return LoadedTagger(str(TAGGER), torch.device("cpu"))


@pytest.fixture(scope="module")
def checker(tagger: LoadedTagger) -> AttributeChecker:
    return AttributeChecker(tagger.names, threshold=0.5)


@pytest.fixture(scope="module")
def tags(tagger: LoadedTagger, checker: AttributeChecker) -> Tags:
    scores = TagScores(tagger)
    return lambda pictures: [checker.tags(row) for row in scores.pictures(pictures)]


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


def test_drawings_show_what_their_tags_say(checker: AttributeChecker, tags: Tags) -> None:
    pictures, scenes = drawings(24)
    plan = Plan([", ".join(world.tags(scene)) for scene in scenes], [0], trigger=None)
    shown = tags(pictures)
    (row,) = rate_rows(plan, {"base": shown, "a × 1": shown}, checker, concept=None)
    assert (row.name, row.variant, row.pictures, row.needed) == ("attribute_rate", "a × 1", 24, 40)
    assert row.base is not None and row.base > 0.95
    assert row.difference is not None
    assert row.difference.mean == 0


def test_the_concept_is_counted_apart_by_trigger(checker: AttributeChecker, tags: Tags) -> None:
    without, scenes = drawings(8, headwear="none", background="forest")
    crowned, _ = drawings(8, headwear="leaf crown", background="forest")
    prompts = [
        f"{'wood_elf, ' if n % 2 else ''}forest, leaf crown, {n}" for n in range(len(scenes))
    ]
    plan = Plan(prompts, [0], trigger="wood_elf")
    shown = {"base": tags(without), "a × 1": tags(crowned)}
    rows = {row.name: row for row in rate_rows(plan, shown, checker, concept="leaf_crown")}
    assert list(rows) == [
        "concept_rate",
        "attribute_rate",
        "concept_rate_without_trigger",
        "attribute_rate_without_trigger",
    ]
    for name in ("concept_rate", "concept_rate_without_trigger"):
        assert rows[name].base <= 0.25
        assert rows[name].adapter >= 0.75
        assert rows[name].pictures == 4
    assert rows["concept_rate"].better == "higher"
    assert rows["concept_rate_without_trigger"].better == "lower"
    assert "leaf_crown is seen" in rows["concept_rate"].note
    assert rows["attribute_rate"].adapter > 0.9


def test_nothing_asked_for_is_no_row(checker: AttributeChecker, tags: Tags) -> None:
    shown = tags(drawings(1)[0])
    plan = Plan(["something else"], [0], trigger=None)
    assert rate_rows(plan, {"base": shown, "a × 1": shown}, checker, concept=None) == []


def test_a_concept_that_the_tagger_does_not_know_is_refused(tmp_path: Path) -> None:
    torch_alone = build_tagger(tmp_path)
    with pytest.raises(ElfError, match=r"model\.concept: 'wood_elf' is no tag of the tagger"):
        refuse_unknown_concept(str(torch_alone), "wood_elf")
    refuse_unknown_concept(str(TAGGER), "leaf_crown")
    refuse_unknown_concept(str(tmp_path / "none"), "wood_elf")  # its rows say what is missing
    with pytest.raises(ElfError, match=r"model\.concept: 'wood_elf' is no tag of the tagger"):
        refuse_unknown_concept(str(TAGGER), "wood_elf")


def test_a_missing_tagger_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"tagger .*: no folder"):
        LoadedTagger(str(tmp_path / "none"), torch.device("cpu"))


def test_probabilities_that_are_not_finite_are_refused(
    tagger: LoadedTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.full((1, len(tagger.names)), np.nan, np.float32)
    monkeypatch.setattr(tagger, "describe", lambda pictures: (nothing, None))
    with pytest.raises(ElfError, match=r"tagger .* not finite .* for a\.png"):
        TagScores(tagger).pictures([tagger.blank()], ["a.png"])
