"""What ``metrics.json`` holds, in types; docs/evaluation.md says it for readers."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Difference:
    """Mean of adapter − base over the prompts, with its 95 % interval.

    Attributes:
        mean: In the units of the row.
        low: Lower bound; none where one prompt is too few.
        high: Upper bound, likewise.
    """

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AdapterVerdict:
    """Whether one adapter is good.

    Attributes:
        adapter: Its name.
        kind: good, no_change, undertrained, memorised, ignores_prompts, forgets or unclear.
        line: The verdict in one line.
        reasons: Short sentences, each with its figure.
        strength: The recommended one.
        strengths: Least and largest good one; empty if none is.
    """

    adapter: str
    kind: str
    line: str
    reasons: tuple[str, ...]
    strength: float | None
    strengths: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """The verdict of each adapter, and whether it rests on enough pictures, or on enough text."""

    adapters: tuple[AdapterVerdict, ...]
    indicative: bool
    why: str | None


@dataclass(frozen=True)
class Variant:
    """The base, or an adapter at a strength."""

    name: str
    adapter: str | None
    strength: float | None


@dataclass(frozen=True)
class Row:
    """One question, of one variant against the base.

    Attributes:
        name: Of the metric.
        variant: Name of the variant.
        base: The base's value.
        adapter: The variant's.
        difference: Paired, over the prompts.
        pictures: How many it is of; of text, prompts or documents.
        needed: How many make it valid; none: any number.
        better: ``higher`` or ``lower``, if one of them is.
        note: How it was measured, or what it needs.
        over_half: adapter − base / 2 of what an adapter should keep of its base; surely below 0,
            it has lost more than half.
    """

    name: str
    variant: str
    base: float | None
    adapter: float | None
    difference: Difference | None
    pictures: int | None
    needed: int | None
    better: str | None
    note: str
    over_half: Difference | None = None

    @property
    def skipped(self) -> bool:
        """Whether it could not be measured; its note says what it needs."""
        return self.base is None and self.adapter is None and self.difference is None

    @property
    def indicative(self) -> bool:
        """Whether it is of fewer of them than make it valid."""
        return self.needed is not None and (self.pictures or 0) < self.needed

    @property
    def change(self) -> Difference | None:
        """The paired difference, or that of the two values, which has no interval."""
        if self.difference is None and self.base is not None and self.adapter is not None:
            return Difference(self.adapter - self.base)
        return self.difference


@dataclass(frozen=True)
class Plan:
    """What was generated: each variant drew each prompt with each seed."""

    prompts: tuple[str, ...]
    triggered: tuple[bool, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Picture:
    """A generated picture; `prompt` is a place in the plan, `file` relative to the folder."""

    variant: str
    prompt: int
    seed: int
    file: str


@dataclass(frozen=True)
class Nearest:
    """The training picture that a generated one is most alike."""

    variant: str
    prompt: int
    seed: int
    training: str
    similarity: float
    copy: bool


@dataclass(frozen=True)
class StratumLoss:
    """Held-out loss of a variant in one stratum of the timesteps, named by its middle."""

    variant: str
    timestep: float
    loss: float


@dataclass(frozen=True)
class Found:
    """What any evaluation finds, and the questions that a page asks of it.

    Attributes:
        verdict: Of each adapter.
        variants: The base, then each adapter at each strength.
        rows: What was measured.
        settings: The configuration, flat, by the keys of the YAML.
        hashes: SHA-256 of base and adapters.
        versions: Of what it ran on.
    """

    verdict: Verdict
    variants: tuple[Variant, ...]
    rows: tuple[Row, ...]
    settings: dict[str, Any]
    hashes: dict[str, str]
    versions: dict[str, str]

    @cached_property
    def base(self) -> Variant:
        """The variant without an adapter."""
        return next(variant for variant in self.variants if variant.adapter is None)

    @cached_property
    def by_name(self) -> dict[str, Variant]:
        """The variants by their names."""
        return {variant.name: variant for variant in self.variants}

    @cached_property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters, in the order of the verdict."""
        names = [each.adapter for each in self.verdict.adapters]
        names += [each.adapter for each in self.variants if each.adapter is not None]
        return tuple(dict.fromkeys(names))

    def strengths(self, adapter: str) -> tuple[Variant, ...]:
        """Return an adapter's variants, the weakest first."""
        mine = [variant for variant in self.variants if variant.adapter == adapter]
        return tuple(sorted(mine, key=lambda each: (each.strength is None, each.strength)))

    def recommended(self, adapter: str) -> AdapterVerdict | None:
        """Return an adapter's verdict."""
        return next((each for each in self.verdict.adapters if each.adapter == adapter), None)

    def shown(self, adapter: str) -> Variant | None:
        """Return an adapter's variant at the recommended strength, or else at the highest."""
        mine, verdict = self.strengths(adapter), self.recommended(adapter)
        if verdict is not None and verdict.strength is not None:
            for variant in mine:
                if variant.strength is not None and math.isclose(
                    variant.strength, verdict.strength, abs_tol=1e-9
                ):
                    return variant
        return mine[-1] if mine else None

    @cached_property
    def shown_variants(self) -> tuple[Variant, ...]:
        """The variant that stands for each adapter, in their order."""
        return tuple(variant for name in self.adapters if (variant := self.shown(name)) is not None)

    @cached_property
    def _rows(self) -> dict[tuple[str, str], Row]:
        return {(row.name, row.variant): row for row in self.rows if not row.skipped}

    def row(self, name: str, variant: str) -> Row | None:
        """Return what was measured of a variant by a metric."""
        return self._rows.get((name, variant))


@dataclass(frozen=True)
class Metrics(Found):
    """All that is found of pictures."""

    plan: Plan
    pictures: tuple[Picture, ...]
    nearest: tuple[Nearest, ...]
    loss: tuple[StratumLoss, ...]

    @cached_property
    def _pictures(self) -> dict[tuple[str, int, int], Picture]:
        return {(each.variant, each.prompt, each.seed): each for each in self.pictures}

    def picture(self, variant: str, prompt: int, seed: int) -> Picture | None:
        """Return the picture that a variant drew for a prompt (its place) and a seed."""
        return self._pictures.get((variant, prompt, seed))


@dataclass(frozen=True)
class Prompt:
    """What was asked.

    Attributes:
        text: The chat's messages, or the prompt.
        reference: The right answer; none if no one said.
        forgetting: Whether it is of what the adapter was not to learn.
    """

    text: str
    reference: str | None
    forgetting: bool


@dataclass(frozen=True)
class Answer:
    """What a variant answered; `prompt` is a place in the list of these."""

    variant: str
    prompt: int
    text: str


TEXT = "text"


@dataclass(frozen=True)
class TextMetrics(Found):
    """All that is found of text; `kind` tells it from what is found of pictures."""

    kind: str
    prompts: tuple[Prompt, ...]
    answers: tuple[Answer, ...]

    @cached_property
    def _answers(self) -> dict[tuple[str, int], Answer]:
        return {(each.variant, each.prompt): each for each in self.answers}

    def answer(self, variant: str, prompt: int) -> str | None:
        """Return what a variant answered to a prompt (its place)."""
        found = self._answers.get((variant, prompt))
        return None if found is None else found.text
