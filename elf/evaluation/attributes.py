"""Does a picture show what its prompt asked for? A tagger's answer, as rates."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from elf.embedders.tagger import find_tagger
from elf.errors import ElfError
from elf.evaluation.plan import Plan
from elf.evaluation.rows import compared
from elf.evaluation.schema import Row
from elf.taggers.tags import TagList
from elf.taggers.wd import FILES as ONNX_FILES

NEEDED = 40  # pictures, for a rate that can be relied on


def prompt_tags(prompt: str, known: set[str]) -> list[str]:
    """Return a prompt's comma-separated parts that are tags of a tagger, each once, in order."""
    parts = (part.strip().replace(" ", "_") for part in prompt.split(","))
    return [tag for tag in dict.fromkeys(parts) if tag in known]


class AttributeChecker:
    """Tells from a tagger's probabilities which tags pictures show.

    Args:
        names: The tags, in the order of the probabilities.
        threshold: A tag counts as shown from this probability on.
    """

    def __init__(self, names: Sequence[str], threshold: float) -> None:
        self._names = np.array(names)
        self.threshold = threshold
        self.known = set(names)

    def tags(self, scores: Float[np.ndarray, " tags"]) -> set[str]:
        """Return the tags that a picture shows."""
        return set(self._names[scores >= self.threshold].tolist())


def refuse_unknown_concept(model: str, concept: str) -> None:
    """Refuse a concept that a tagger does not know, before anything is drawn.

    A tagger that is not there, or whose list cannot be read, is no error here: its rows say so.

    Raises:
        ElfError: If the concept is none of its tags.
    """
    try:
        source = find_tagger(model, "cpu")
        known = TagList.read(source.folder / ONNX_FILES[1])
    except ElfError:
        return
    if concept not in known.names:
        raise ElfError(
            f"model.concept: {concept!r} is no tag of the tagger; take one of its selected_tags.csv"
        )


def rate_rows(
    plan: Plan,
    shown: Mapping[str, Sequence[set[str]]],
    checker: AttributeChecker,
    concept: str | None,
) -> list[Row]:
    """Return how often each variant shows what was asked for, with and without the trigger.

    Args:
        plan: What was asked for.
        shown: The tags of each picture, by variant, in the plan's order.
        checker: What found them.
        concept: The tag of what the trigger stands for, counted apart from the other tags.
    """
    asked = [
        [tag for tag in prompt_tags(prompt, checker.known) if tag != concept]
        for prompt in plan.prompts
    ]
    rows: list[Row] = []
    for suffix, prompts in (("", plan.triggered), ("_without_trigger", ~plan.triggered)):
        if concept is not None:
            scores = _rates(plan, shown, [[concept]] * len(asked), prompts)
            note = f"how often {concept} is seen by the tagger"
            better: Literal["higher", "lower"] = "lower" if suffix else "higher"
            rows += compared(f"concept_rate{suffix}", scores, NEEDED, better, note, shares=True)
        scores = _rates(plan, shown, asked, prompts)
        note = "how often prompted tags are seen by the tagger"
        rows += compared(
            f"attribute_rate{suffix}", scores, NEEDED, "higher", note, shares=True, kept=True
        )
    return rows


def _rates(
    plan: Plan,
    shown: Mapping[str, Sequence[set[str]]],
    asked: Sequence[Sequence[str]],
    prompts: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the share of wanted tags that each picture shows (P, S); NaN where none are wanted."""
    seeds = len(plan.seeds)
    tables: dict[str, np.ndarray] = {}
    for variant, found in shown.items():
        shares = [
            sum(tag in tags for tag in asked[number // seeds]) / len(asked[number // seeds])
            if asked[number // seeds] and prompts[number // seeds]
            else float("nan")
            for number, tags in enumerate(found)
        ]
        tables[variant] = np.array(shares).reshape(-1, seeds)
    return tables
