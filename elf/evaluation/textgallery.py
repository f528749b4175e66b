"""Answers side by side on the page: base and adapter, with what was expected."""

from collections.abc import Sequence
from html import escape

from elf.counted import counted
from elf.evaluation.schema import Prompt, TextMetrics, Variant
from elf.evaluation.textscores import exact
from elf.evaluation.words import label

SHOWN, MOST = 12, 200
"""Prompts that are shown at once, and in all: the others open, or are in ``metrics.json`` alone."""


def answers(metrics: TextMetrics, forgetting: bool) -> str:
    """Return what each variant answered, prompt by prompt.

    Args:
        metrics: What was found.
        forgetting: Of the prompts whose answers are not to be forgotten, or of the others.
    """
    places = [n for n, each in enumerate(metrics.prompts) if each.forgetting == forgetting]
    if not places:
        return ""
    kinds = {place: _kind(metrics, place) for place in places}
    cards = [_card(metrics, place, kinds[place]) for place in places[:MOST]]
    name = "old" if forgetting else "new"
    switch = ""
    if "same" in kinds.values() and set(kinds.values()) != {"same"}:
        switch = (
            f'<input type="checkbox" class="only" id="only-{name}">'
            f'<label for="only-{name}">only what the adapter changed</label>'
        )
    text = f'<p class="note">{escape(_summary(metrics, places))}</p>{switch}'
    text += f'<div class="asks">{"".join(cards[:SHOWN])}</div>'
    if len(cards) > SHOWN:
        text += (
            f"<details><summary>{len(cards) - SHOWN} more</summary>"
            f'<div class="asks">{"".join(cards[SHOWN:])}</div></details>'
        )
    if len(places) > MOST:
        text += f'<p class="note">{len(places) - MOST} more are in metrics.json.</p>'
    return text


def _kind(metrics: TextMetrics, place: int) -> str:
    """Return whether an adapter that is shown answers otherwise than the base."""
    base = metrics.answer(metrics.base.name, place)
    others = (metrics.answer(each.name, place) for each in metrics.shown_variants)
    return "same" if all(each == base for each in others) else "changed"


def _summary(metrics: TextMetrics, places: Sequence[int]) -> str:
    """Say how many answers became right, and how many wrong."""
    asked = [place for place in places if metrics.prompts[place].reference is not None]
    if not asked:
        return f"{counted(len(places), 'prompt')}; no references"
    said = []
    for variant in metrics.shown_variants:
        before, after = (
            [_right(metrics, each, place) for place in asked] for each in (metrics.base, variant)
        )
        pairs = list(zip(before, after, strict=True))
        said.append(
            f"{label(variant)}: {pairs.count((False, True))} of {len(asked)} became right,"
            f" {pairs.count((True, False))} wrong; {pairs.count((True, True))} stayed right,"
            f" {pairs.count((False, False))} wrong"
        )
    return ". ".join(said) + "."


def _right(metrics: TextMetrics, variant: Variant, place: int) -> bool | None:
    reference = metrics.prompts[place].reference
    answer = metrics.answer(variant.name, place)
    if reference is None or answer is None:
        return None
    return bool(exact([answer], [reference])[0])


def _card(metrics: TextMetrics, place: int, kind: str) -> str:
    prompt = metrics.prompts[place]
    variants = (
        metrics.base,
        *(each for adapter in metrics.adapters for each in metrics.strengths(adapter)),
    )
    cells = "".join(_cell(metrics, each, place) for each in variants)
    return (
        f'<article class="ask {kind}"><p class="asked">{escape(prompt.text)}</p>'
        f'{_reference(prompt)}<div class="said">{cells}</div></article>'
    )


def _reference(prompt: Prompt) -> str:
    if prompt.reference is None:
        return ""
    return f'<p class="reference"><span>expected</span> {escape(prompt.reference)}</p>'


def _cell(metrics: TextMetrics, variant: Variant, place: int) -> str:
    answer, right = metrics.answer(variant.name, place), _right(metrics, variant, place)
    chip = ""
    if right is not None:
        chip = f' <span class="chip {"good" if right else "bad"}">{"right" if right else "wrong"}'
        chip += "</span>"
    shown = variant in metrics.shown_variants or variant.adapter is None
    text = "–" if answer is None else escape(answer) or '<i class="note">(nothing)</i>'
    return (
        f'<figure class="answer{"" if shown else " weaker"}"><figcaption>{escape(label(variant))}'
        f"{chip}</figcaption><blockquote>{text}</blockquote></figure>"
    )
