"""Does a picture show what its prompt asked for? A tagger's answer, as rates."""

import numpy as np
from PIL import Image

from elf.errors import ElfError
from elf.metrics import paired_difference
from elf.report import VARIANTS, Plan, Row
from elf.taggers.backend import find_source, load_tagger
from elf.taggers.wd import WDConfig
from elf.trigger import has_trigger


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


class AttributeRates:
    """How often base and adapter show what was asked for, with and without the trigger.

    Args:
        checker: Finds the tags of pictures.
        trigger: The trigger word; prompts that hold it are counted apart from those that do not.
        concept: The tag of what the trigger stands for, counted apart from the other tags.
    """

    def __init__(self, checker: AttributeChecker, trigger: str | None, concept: str | None) -> None:
        if concept is not None:
            checker.require(concept)
        self._checker = checker
        self._trigger = trigger
        self._concept = concept
        self._found: dict[str, list[set[str]]] = {name: [] for name in VARIANTS}

    def add(self, variant: str, pictures: list[Image.Image]) -> None:
        """Look at the next pictures of the plan, those of ``base`` or of ``adapter``."""
        self._found[variant] += self._checker.tags(pictures)

    def rows(self, plan: list[tuple[str, int]]) -> list[Row]:
        """Return the rates of all pictures; ``plan`` says prompt and seed of each."""
        rows: list[Row] = []
        for suffix, with_trigger in (("", True), ("_without_trigger", False)):
            chosen = [
                number
                for number, (prompt, _) in enumerate(plan)
                if bool(self._trigger and has_trigger(prompt, self._trigger)) is with_trigger
            ]
            if self._concept is not None:
                asked = [[self._concept]] * len(chosen)
                rows += self._row(f"concept_rate{suffix}", self._concept, asked, chosen, plan)
            prompted = [
                [
                    tag
                    for tag in prompt_tags(plan[n][0], self._checker.known)
                    if tag != self._concept
                ]
                for n in chosen
            ]
            rows += self._row(f"attribute_rate{suffix}", "prompted tags", prompted, chosen, plan)
        return rows

    def _row(
        self,
        name: str,
        what: str,
        asked: list[list[str]],
        chosen: list[int],
        plan: list[tuple[str, int]],
    ) -> list[Row]:
        if not any(asked):
            return []
        arranged = Plan([plan[number] for number in chosen])
        tables = {
            variant: arranged.table(
                np.array(
                    [
                        _shown(tags, self._found[variant][number])
                        for tags, number in zip(asked, chosen, strict=True)
                    ]
                )
            )
            for variant in VARIANTS
        }
        base, adapter = (tables[variant] for variant in VARIANTS)
        note = f"how often {what} are seen by the tagger, {base.size} pictures"
        if what == self._concept:
            note = note.replace(" are ", " is ")
        difference = paired_difference(base, adapter)
        return [Row(name, float(base.mean()), float(adapter.mean()), difference, note)]


def _shown(wanted: list[str], found: set[str]) -> float:
    """Return the share of wanted tags that are found; NaN where nothing was asked for."""
    return sum(tag in found for tag in wanted) / len(wanted) if wanted else float("nan")
