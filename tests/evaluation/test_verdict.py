"""What is said of an adapter, from rows that are given."""

from typing import Any

import pytest

from elf.evaluation.plan import Variant
from elf.evaluation.schema import Difference, Row
from elf.evaluation.verdict import indicative, judge

VARIANTS = [Variant("elf × 0.5", 0, 0.5), Variant("elf × 1", 0, 1.0)]


def row(
    name: str, variant: str, base: float | None, adapter: float, margin: float = 0.01, **more: Any
) -> Row:
    mean = adapter - (base or 0.0)
    change = Difference(mean, mean - margin, mean + margin)
    half = Difference(mean + (base or 0.0) / 2, high=adapter - (base or 0.0) / 2 + margin)
    values = {"pictures": 80, "needed": 40, "better": None, "note": "", "over_half": half} | more
    return Row(name, variant, base, adapter, change, **values)


def measured(
    variant: str = "elf × 1",
    change: float = 0.1,
    concept: float = 0.9,
    subject: float = 0.6,
    attributes: float = 0.95,
    fit: float = 0.5,
    copies: float = 0.0,
) -> list[Row]:
    return [
        row("picture_change", variant, None, change),
        row("concept_rate", variant, 0.0, concept),
        row("subject_similarity", variant, 0.4, subject),
        row("subject_share", variant, 0.0, (subject - 0.4) / 0.4, margin=0.025),
        row("attribute_rate", variant, 1.0, attributes),
        row("prompt_margin", variant, 0.5, fit),
        row("prompt_similarity", variant, 0.3, 0.3),
        row("copies", variant, 0.0, copies),
    ]


def losses(held_out: float, trained: float) -> list[Row]:
    return [
        row("held_out_loss", "elf × 1", 0.2, held_out),
        row("trained_loss", "elf × 1", 0.2, trained),
    ]


UNLEARNT: dict[str, float] = {"concept": 0.0, "subject": 0.4}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("good", [*measured(), *losses(0.15, 0.14)]),
        ("no_change", measured(change=0.0, **UNLEARNT)),
        ("undertrained", measured(**UNLEARNT)),
        ("memorised", measured(copies=0.5)),
        ("memorised", [*measured(), *losses(0.25, 0.05)]),
        ("ignores_prompts", measured(attributes=0.2)),
        ("ignores_prompts", measured(fit=0.1)),
        ("ignores_prompts", measured(fit=0.1, copies=0.3)),
    ],
)
def test_each_kind_is_told_apart(kind: str, rows: list[Row]) -> None:
    verdict = judge("elf", VARIANTS[1:], rows)
    assert verdict.kind == kind
    good = kind == "good" or (kind == "memorised" and "held_out_loss" in {r.name for r in rows})
    assert verdict.strength == (1.0 if good else None)
    assert ("no strength to recommend" in verdict.line) != good


def test_a_change_within_its_interval_is_none() -> None:
    rows = [r for r in measured() if r.name != "concept_rate"]
    rows.append(row("concept_rate", "elf × 1", 0.0, 0.6, margin=0.7))
    assert judge("elf", VARIANTS[1:], rows).kind == "unclear"


def test_a_trace_is_nothing_learnt_however_sure() -> None:
    assert judge("elf", VARIANTS[1:], measured(concept=0.1)).kind == "undertrained"


@pytest.mark.parametrize(("subject", "kind"), [(0.55, "undertrained"), (0.65, "good")])
def test_without_a_concept_likeness_decides(subject: float, kind: str) -> None:
    rows = [r for r in measured(subject=subject) if r.name != "concept_rate"]
    assert judge("elf", VARIANTS[1:], rows).kind == kind


def test_an_interval_without_bounds_shows_nothing() -> None:
    rows = measured()
    rate = Row("concept_rate", "elf × 1", 0.0, 1.0, Difference(1.0), 1, 40, "higher", "")
    rows = [r for r in rows if r.name != "concept_rate"] + [rate]
    assert judge("elf", VARIANTS[1:], rows).kind == "unclear"


def test_what_was_not_measured_is_not_called_undertrained() -> None:
    rows = [row("picture_change", "elf × 1", None, 0.1)]
    assert judge("elf", VARIANTS[1:], rows).kind == "unclear"
    assert indicative(rows) == (
        True,
        "nothing says how much was learnt; give data.shards, or model.concept",
    )


def test_prompts_without_the_trigger_must_be_followed_too() -> None:
    rows = [*measured(), row("attribute_rate_without_trigger", "elf × 1", 1.0, 0.3)]
    rows += [
        row("concept_rate_without_trigger", "elf × 1", 0.0, 0.4),
        row("drift", "elf × 1", None, 0.25),
    ]
    verdict = judge("elf", VARIANTS[1:], rows)
    assert verdict.kind == "ignores_prompts"
    assert "40% concept without the trigger; drift 0.250; no copies" in verdict.line


def test_the_strength_that_learnt_most_and_still_follows_is_recommended() -> None:
    weak, strong = (
        measured("elf × 0.5", concept=0.5),
        measured("elf × 1", concept=0.95, attributes=0.97),
    )
    verdict = judge("elf", VARIANTS, weak + strong)
    assert (verdict.strength, verdict.strengths) == (1.0, (1.0,))
    weak = measured("elf × 0.5", concept=0.94, attributes=1.0)
    verdict = judge("elf", VARIANTS, weak + strong)
    assert (verdict.strength, verdict.strengths) == (0.5, (0.5, 1.0))
    assert "use strength 0.5–1" in verdict.line


def test_a_weaker_one_that_does_not_copy_is_recommended() -> None:
    rows = measured("elf × 0.5", concept=0.7) + measured("elf × 1", copies=0.6)
    verdict = judge("elf", VARIANTS, rows)
    assert (verdict.kind, verdict.strength) == ("good", 0.5)
    assert "no copies" in verdict.line


def test_the_line_says_what_was_measured() -> None:
    verdict = judge("elf", VARIANTS[1:], measured())
    assert verdict.line == (
        "good: concept 0% → 90%; subject +0.200 [+0.190, +0.210]; prompted tags 100% → 95%; "
        "prompt +0.000 [-0.010, +0.010]; no copies; use strength 1"
    )
    assert verdict.reasons[0] == "concept 0% → 90%"
    still = judge("elf", VARIANTS[1:], measured(change=0.0))
    assert still.line == (
        "no change: at strength 1 its pictures are the base's; no strength to recommend"
    )


def test_few_pictures_make_it_indicative() -> None:
    assert indicative(measured()) == (False, None)
    few = [row("prompt_margin", "elf × 1", 0.5, 0.5, pictures=16, needed=80)]
    assert indicative([*measured(), *few]) == (
        True,
        "prompt_margin is of 16 pictures; 80 are needed",
    )
