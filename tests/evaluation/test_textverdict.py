"""What is said of a language model's adapter, from rows that are given."""

from typing import Any

import pytest

from elf.evaluation.plan import Variant
from elf.evaluation.schema import AdapterVerdict, Difference, Row
from elf.evaluation.textverdict import TextAtStrength, indicative
from elf.evaluation.verdict import judge

ONE = "elf × 1"
VARIANTS = [Variant("elf × 0.5", 0, 0.5), Variant(ONE, 0, 1.0)]


def row(name: str, variant: str, base: float, adapter: float, margin: float = 0.05) -> Row:
    mean = adapter - base
    half = Difference(mean + base / 2, high=adapter - base / 2 + margin)
    change = Difference(mean, mean - margin, mean + margin)
    return Row(name, variant, base, adapter, change, 80, 40, None, "", half)


def measured(variant: str = ONE, **found: tuple[float, float]) -> list[Row]:
    values: dict[str, tuple[float, float]] = {
        "answer_change": (0.0, 0.9),
        "exact_match": (0.02, 0.9),
        "rouge_l": (0.3, 0.95),
        "perplexity_ratio": (1.0, 0.4),
        "trained_perplexity_ratio": (1.0, 0.39),
        "forgetting_exact_match": (0.9, 0.85),
        "forgetting_perplexity_ratio": (1.0, 1.2),
    }
    values |= found
    return [row(name, variant, *pair) for name, pair in values.items() if pair]


def verdict(rows: list[Row], variants: Any = VARIANTS[1:]) -> AdapterVerdict:
    return judge("elf", variants, rows, TextAtStrength)


NOT: Any = ()
READ = {"exact_match": NOT, "rouge_l": NOT}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("good", {}),
        ("no_change", {"answer_change": (0, 0), "perplexity_ratio": (1, 1.0001)}),
        ("undertrained", {"exact_match": (0.02, 0.03), "rouge_l": (0.3, 0.31)}),
        ("memorised", {"perplexity_ratio": (1, 1.5)}),
        ("forgets", {"forgetting_exact_match": (0.9, 0.2)}),
        ("forgets", {"forgetting_exact_match": NOT, "forgetting_perplexity_ratio": (1.0, 2.0)}),
        ("good", {"forgetting_exact_match": NOT, "forgetting_perplexity_ratio": (1.0, 1.5)}),
        ("forgets", {"exact_match": (0.8, 0.2)}),
        ("good", READ),
        ("undertrained", READ | {"perplexity_ratio": (1, 0.97)}),
        ("unclear", READ | {"perplexity_ratio": NOT}),
        ("good", {"exact_match": (0, 0), "rouge_l": (0.2, 0.4)}),  # long answers
    ],
)
def test_each_kind_is_told_apart(kind: str, found: dict[str, Any]) -> None:
    assert verdict(measured(**found)).kind == kind


def test_a_change_within_its_interval_is_none() -> None:
    rows = [each for each in measured(rouge_l=NOT) if each.name != "exact_match"]
    rows.append(row("exact_match", ONE, 0.0, 0.5, margin=0.6))
    assert verdict(rows).kind == "unclear"


def test_the_line_has_the_figures_and_the_strength() -> None:
    found = verdict(measured())
    assert found.line == (
        "good: right answers 2% → 90%; ROUGE-L 30% → 95%; held-out perplexity × 0.4 [0.35, 0.45];"
        " old right answers 90% → 85%; old perplexity × 1.2 [1.15, 1.25]; use strength 1"
    )
    unchanged = verdict(measured(answer_change=(0, 0), perplexity_ratio=NOT))
    assert unchanged.line == (
        "no change: at strength 1 its answers are the base's; no strength to recommend"
    )


def test_the_strength_that_learns_and_keeps_most_is_recommended() -> None:
    weak = measured("elf × 0.5", exact_match=(0.02, 0.85), forgetting_exact_match=(0.9, 0.9))
    strong = measured(exact_match=(0.02, 0.9), forgetting_exact_match=(0.9, 0.6))
    found = verdict([*weak, *strong], VARIANTS)
    assert (found.strength, found.strengths) == (0.5, (0.5,))
    same = verdict([*measured("elf × 0.5"), *measured()], VARIANTS)
    assert same.strengths == (0.5, 1.0)


def test_what_rests_on_little_is_indicative() -> None:
    assert indicative(measured()) == (False, None)
    few = [Row("exact_match", ONE, 0.0, 1.0, None, 6, 40, None, "")]
    assert indicative(few) == (True, "exact_match is of 6 prompts or documents; 40 are needed")
    why = "nothing says how much was learnt; give data.documents, or references"
    assert indicative([]) == (True, why)
