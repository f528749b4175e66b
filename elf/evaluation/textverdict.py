"""What the rows say of a language model's adapter, for the verdict on it."""

from collections.abc import Sequence

from elf.evaluation.schema import Row
from elf.evaluation.verdict import (
    AtStrength,
    Kind,
    surely_above,
    surely_below,
    surely_lost,
    too_few,
)

ANSWERED = {"exact_match": 0.25, "rouge_l": 0.05}
LEARNT = ANSWERED | {"perplexity_ratio": -0.1}
"""What says that something was learnt, and from which change on: answers, if they were asked."""
FORGOTTEN = 0.5
"""By how much of the base's the perplexity of general text surely grows where it was forgotten."""
SAME = 1e-3
"""Change of the perplexity, as a share, below which two models are one."""
LEAST = 1e-3
"""Of a ratio of perplexities that is told in figures."""
RIGHT, OLD, OLD_RATIO = "exact_match", "forgetting_exact_match", "forgetting_perplexity_ratio"


class TextAtStrength(AtStrength):
    """What the rows say of an adapter at one strength."""

    damage: Kind = "forgets"

    @property
    def changes(self) -> bool:
        """Whether it answers otherwise than the base, or finds text otherwise likely."""
        answers, ratio = self.rows.get("answer_change"), self.rows.get("perplexity_ratio")
        if answers is not None and answers.adapter:
            return True
        if ratio is not None and ratio.difference is not None:
            return abs(ratio.difference.mean) > SAME
        weights = self.rows.get("weight_change")
        return answers is None and weights is not None and bool(weights.adapter)

    @property
    def learnt(self) -> bool:
        """Whether it surely answers better, or surely finds held-out text likelier."""
        return any(
            surely_above(row) if LEARNT[row.name] > 0 else surely_below(row)
            for row in self._gained_rows
        )

    @property
    def seems_learnt(self) -> bool:
        """Whether it does so by more than a trace; of little text that may be chance."""
        return bool(self._gained_rows)

    @property
    def measured(self) -> bool:
        """Whether anything says how much was learnt."""
        return any(name in self.rows for name in LEARNT)

    @property
    def _gained_rows(self) -> list[Row]:
        """The rows that say so: where right answers are known, what was read does not count."""
        found = []
        names = ANSWERED if any(name in self.rows for name in ANSWERED) else LEARNT
        for name, least in names.items():
            row = self.rows.get(name)
            if row is not None and row.difference is not None:
                mean = row.difference.mean
                if mean >= least if least > 0 else mean <= least:
                    found.append(row)
        return found

    @property
    def ignores(self) -> bool:
        """Whether it surely forgot: half of the right answers, or else as much of the likelihood.

        Or half of the right answers that the base had to the prompts themselves.
        """
        if surely_lost(self.rows.get(RIGHT)):
            return True
        old = self.rows.get(OLD)
        if old is not None and old.base:
            return surely_lost(old)
        ratio = self.rows.get(OLD_RATIO)
        low = ratio.difference.low if ratio is not None and ratio.difference is not None else None
        return low is not None and low > FORGOTTEN

    @property
    def copies(self) -> bool:
        """Nothing says so of text: what was learnt by heart shows in the perplexity."""
        return False

    @property
    def memorised(self) -> bool:
        """Whether trained text surely became likelier, and held-out text less likely."""
        held_out, trained = (self.rows.get(f"{of}perplexity_ratio") for of in ("", "trained_"))
        return surely_above(held_out) and surely_below(trained)

    def gain(self) -> float:
        """Return how much was learnt: right answers and words in common, or else likelihood."""
        scores = [row.adapter or 0.0 for name in (RIGHT, "rouge_l") if (row := self.rows.get(name))]
        ratio = self.rows.get("perplexity_ratio")
        if scores or ratio is None or ratio.adapter is None:
            return sum(scores)
        return max(0.0, 1 - ratio.adapter)

    def kept(self) -> float:
        """Return the share of what the base knew that is left, at most 1."""
        old, ratio = self.rows.get(OLD), self.rows.get(OLD_RATIO)
        if old is not None and old.base and old.adapter is not None:
            return min(1.0, old.adapter / old.base)
        return min(1.0, 1 / ratio.adapter) if ratio is not None and ratio.adapter else 1.0

    def reasons(self) -> list[str]:
        """Return the figures that the verdict rests on, in words."""
        at = f"at strength {self.strength:g}"
        if not self.changes:
            return [f"{at} its answers are the base's"]
        said = [
            f"{what} {row.base:.0%} → {row.adapter:.0%}"
            for name, what in ((RIGHT, "right answers"), ("rouge_l", "ROUGE-L"))
            if (row := self.rows.get(name)) and row.base is not None and row.adapter is not None
        ]
        said += self._ratio("perplexity_ratio", "held-out perplexity")
        old = self.rows.get(OLD)
        if old is not None and old.base is not None and old.adapter is not None:
            said.append(f"old right answers {old.base:.0%} → {old.adapter:.0%}")
        return said + self._ratio(OLD_RATIO, "old perplexity")

    def _ratio(self, name: str, what: str) -> list[str]:
        row = self.rows.get(name)
        if row is None or row.adapter is None:
            return []
        change = row.difference
        if change is None or change.low is None or change.high is None:
            return [f"{what} × {row.adapter:.3g}"]
        low, high = 1 + change.low, 1 + change.high
        if high < LEAST:
            return [f"{what} × less than {LEAST:g}"]
        return [f"{what} × {row.adapter:.3g} [{low:.3g}, {high:.3g}]"]


def indicative(rows: Sequence[Row]) -> tuple[bool, str | None]:
    """Return whether the verdict rests on less text than it takes, and why."""
    if not any(row.name in LEARNT and not row.skipped for row in rows):
        return True, "nothing says how much was learnt; give data.documents, or references"
    return too_few(rows, (*LEARNT, OLD, OLD_RATIO), "prompts or documents")
