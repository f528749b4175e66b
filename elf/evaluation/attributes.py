"""Does a picture show what its prompt asked for? A tagger's answer, as rates."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from elf.errors import ElfError
from elf.evaluation.plan import Plan
from elf.evaluation.rows import compared
from elf.evaluation.schema import Row
from elf.taggers.backend import find_source, load_tagger
from elf.taggers.wd import WDConfig

NEEDED = 40  # pictures, for a rate that can be relied on


def prompt_tags(prompt: str, known: set[str]) -> list[str]:
    """Return a prompt's comma-separated parts that are tags of a tagger, each once, in order."""
    parts = (part.strip().replace(" ", "_") for part in prompt.split(","))
    return [tag for tag in dict.fromkeys(parts) if tag in known]


class AttributeChecker:
    """Finds the tags of pictures with a WD tagger.

    Args:
        model: The tagger's folder or hub name.
        threshold: A tag counts as shown from this probability on.
        device: Where the tagger runs.

    Raises:
        ElfError: If the tagger is not there.
    """

    def __init__(self, model: str, threshold: float, device: str = "cpu") -> None:
        config = WDConfig(model=model)
        source = find_source(config, device)
        self._tagger = load_tagger(config, source, device)
        self._preprocess = source.preprocess()
        self.threshold = threshold
        self.known = set(self._tagger.tags.names)

    def require(self, tag: str) -> None:
        """Refuse a concept that the tagger does not know.

        Raises:
            ElfError: If it is none of its tags.
        """
        if tag not in self.known:
            raise ElfError(
                f"model.concept: {tag!r} is no tag of the tagger; take one of its selected_tags.csv"
            )

    def tags(self, pictures: list[Image.Image]) -> list[set[str]]:
        """Return the tags that each picture shows."""
        scores = self._tagger.score(np.stack([self._preprocess(p) for p in pictures]))
        names = self._tagger.tags.names
        return [
            {name for name, score in zip(names, row, strict=True) if score >= self.threshold}
            for row in scores
        ]


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

    Raises:
        ElfError: If the concept is no tag.
    """
    if concept is not None:
        checker.require(concept)
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
