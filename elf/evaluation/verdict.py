"""The verdict on an adapter, from the rows of the table: what it is, and at which strength."""

from collections.abc import Mapping, Sequence
from typing import Literal

from elf.evaluation.plan import Variant
from elf.evaluation.schema import AdapterVerdict, Difference, Row
from elf.evaluation.words import words

Kind = Literal[
    "good", "no_change", "undertrained", "memorised", "ignores_prompts", "forgets", "unclear"
]

UNSEEN = 1e-3
"""Mean change of a pixel, of 1, below which two pictures are one: a quarter of a grey level."""
COPYING = 0.1
"""Share of copies from which an adapter copies: one picture in ten."""
LEARNT = {"concept_rate": 0.25, "subject_share": 0.5}
"""What says that something was learnt, the first that was measured, and from which gain on."""
NEAR_BEST = 0.95
"""Share of the best strength's score from which another one is as good."""


class AtStrength:
    """What the rows say of an adapter at one strength.

    Args:
        strength: Factor on the update.
        rows: Those of this variant, by name.
    """

    damage: Kind = "ignores_prompts"
    """What ``ignores`` is called."""

    def __init__(self, strength: float, rows: Mapping[str, Row]) -> None:
        self.strength, self.rows = strength, rows

    @property
    def changes(self) -> bool:
        """Whether its pictures are others than the base's."""
        row = self.rows["picture_change"]
        return (row.adapter or 0.0) > UNSEEN

    @property
    def learnt(self) -> bool:
        """Whether its pictures surely show what was to be learnt."""
        return self.seems_learnt and surely_above(self._gained)

    @property
    def seems_learnt(self) -> bool:
        """Whether they show it, and not just a trace; of few pictures that may be chance."""
        row = self._gained
        if row is None or row.difference is None:
            return False
        return row.difference.mean >= LEARNT[row.name]

    @property
    def measured(self) -> bool:
        """Whether anything says how much was learnt."""
        return self._gained is not None

    @property
    def _gained(self) -> Row | None:
        return next((self.rows[name] for name in LEARNT if name in self.rows), None)

    @property
    def ignores(self) -> bool:
        """Whether its pictures surely show less than half of what the base shows of a prompt."""
        return any(surely_lost(self.rows.get(name)) for name in FOLLOWED)

    @property
    def copies(self) -> bool:
        """Whether it copies training pictures, as the base does not."""
        row = self.rows.get("copies")
        return row is not None and (row.adapter or 0.0) >= COPYING and surely_above(row)

    @property
    def good(self) -> bool:
        """Whether it has learnt, still follows prompts, and does not copy."""
        return self.changes and self.learnt and not self.ignores and not self.copies

    @property
    def memorised(self) -> bool:
        """Whether the loss says so: it fell on trained pictures, and rose on those held out."""
        held_out, trained = (self.rows.get(f"{name}_loss") for name in ("held_out", "trained"))
        return surely_above(held_out) and surely_below(trained)

    def gain(self) -> float:
        """Return how much was learnt, to compare strengths: the concept's rate, or likeness."""
        return (self._gained.adapter or 0.0) if self._gained is not None else 0.0

    def kept(self) -> float:
        """Return the share of the base's following of prompts that is left, at most 1."""
        shares = [
            row.adapter / row.base
            for row in map(self.rows.get, FOLLOWED)
            if row is not None and row.base and row.adapter is not None
        ]
        return max(0.0, min(1.0, *shares)) if shares else 1.0

    def reasons(self) -> list[str]:
        """Return the figures that the verdict rests on, in words."""
        at = f"at strength {self.strength:g}"
        if not self.changes:
            return [f"{at} its pictures are the base's"]
        said = []
        for name, what, rate in (
            ("concept_rate", "concept", True),
            ("subject_similarity", "subject", False),
            ("attribute_rate", "prompted tags", True),
            ("prompt_similarity", "prompt", False),
            ("held_out_loss", "held-out loss", False),
        ):
            row = self.rows.get(name)
            if row is None or row.adapter is None or row.difference is None:
                continue
            if rate and row.base is not None:
                said.append(f"{what} {row.base:.0%} → {row.adapter:.0%}")
            else:
                said.append(f"{what} {said_change(row.difference)}")
        leak, drift = (self.rows.get(name) for name in ("concept_rate_without_trigger", "drift"))
        if leak is not None and leak.adapter:
            said.append(f"{leak.adapter:.0%} concept without the trigger")
        if drift is not None and drift.adapter is not None:
            said.append(f"drift {drift.adapter:.3f}")
        copies = self.rows.get("copies")
        if copies is not None and copies.adapter is not None:
            said.append(f"{copies.adapter:.0%} copies" if copies.adapter else "no copies")
        return said


FOLLOWED = (
    *("attribute_rate", "prompt_margin"),
    *("attribute_rate_without_trigger", "prompt_margin_without_trigger"),
)


def judge(
    adapter: str,
    variants: Sequence[Variant],
    rows: Sequence[Row],
    look: type[AtStrength] = AtStrength,
) -> AdapterVerdict:
    """Return the verdict on one adapter.

    Args:
        adapter: Its name.
        variants: It at each strength.
        rows: Of the whole table.
        look: What the rows say: of pictures, or of text.
    """
    seen = [
        look(variant.factor, {row.name: row for row in rows if row.variant == variant.name})
        for variant in variants
    ]
    good = [each for each in seen if each.good]
    best = _best(good)
    near = [
        each.strength
        for each in good
        if best is not None and _score(each, good) >= NEAR_BEST * _score(best, good)
    ]
    kind = _kind(seen, good)
    shown = best or min(seen, key=lambda each: abs(each.strength - 1))
    reasons = shown.reasons()
    ends = tuple(dict.fromkeys((min(near), max(near)))) if near else ()
    use = "–".join(f"{strength:g}" for strength in ends)
    last = f"use strength {use}" if use else "no strength to recommend"
    line = f"{words(kind)}: {'; '.join([*reasons, last])}"
    return AdapterVerdict(
        adapter, kind, line, tuple(reasons), best.strength if best else None, ends
    )


def indicative(rows: Sequence[Row]) -> tuple[bool, str | None]:
    """Return whether the verdict rests on fewer pictures than it takes, and why."""
    if not any(row.name in LEARNT and not row.skipped for row in rows):
        return True, "nothing says how much was learnt; give data.shards, or model.concept"
    return too_few(rows, (*LEARNT, *FOLLOWED), "pictures")


def too_few(rows: Sequence[Row], names: Sequence[str], of: str) -> tuple[bool, str | None]:
    """Return whether one of the rows that decide is of too few, and which."""
    deciding = [row for row in rows if row.name in names and row.indicative]
    if not deciding:
        return False, None
    row = max(deciding, key=lambda row: (row.needed or 0) / max(row.pictures or 0, 1))
    return True, f"{row.name} is of {row.pictures} {of}; {row.needed} are needed"


def _kind(seen: Sequence[AtStrength], good: Sequence[AtStrength]) -> Kind:
    if not any(each.changes for each in seen):
        return "no_change"
    if any(each.memorised for each in seen):
        return "memorised"
    if good:
        return "good"
    if any(each.ignores for each in seen):
        return seen[0].damage
    if any(each.copies for each in seen):
        return "memorised"
    known = all(each.measured for each in seen)
    return "unclear" if not known or any(each.seems_learnt for each in seen) else "undertrained"


def _best(good: Sequence[AtStrength]) -> AtStrength | None:
    return max(good, key=lambda each: _score(each, good), default=None)


def _score(one: AtStrength, good: Sequence[AtStrength]) -> float:
    """Return the share of the most that any strength learnt, and of prompts that it follows."""
    most = max(each.gain() for each in good)
    return (one.gain() / most if most > 0 else 0.0) + one.kept()


def said_change(change: Difference) -> str:
    """Return a difference with its interval in words."""
    if change.low is None or change.high is None:
        return f"{change.mean:+.3f}"
    return f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def surely_above(row: Row | None) -> bool:
    """Whether a row's interval lies above 0."""
    low = row.difference.low if row is not None and row.difference is not None else None
    return low is not None and low > 0


def surely_below(row: Row | None) -> bool:
    """Whether a row's interval lies below 0."""
    high = row.difference.high if row is not None and row.difference is not None else None
    return high is not None and high < 0


def surely_lost(row: Row | None) -> bool:
    """Whether surely less than half of what the base shows is left."""
    if row is None or row.over_half is None or not row.base or row.base < 0:
        return False
    return row.over_half.high is not None and row.over_half.high < 0
