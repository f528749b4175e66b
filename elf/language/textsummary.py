"""What became of rows of text, in figures and in words."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class LeftOut:
    """What was left out for one reason: how often, and where first."""

    reason: str
    count: int
    first: str


@dataclass(frozen=True)
class TextSummary:
    """What a preparation of text did.

    Attributes:
        rows: How many were read.
        documents: What became of them, held-out ones among them.
        tokens: Of all documents.
        trained: Of these the ones that are trained on.
        longest: Tokens of the longest document.
        median: Tokens of the median document.
        held_out: Documents kept for validation.
        left_out: Rows and pieces of which there is no document, and why.
        shortened: Documents that end earlier than their row.
        notes: What the user is to know.
        unchanged: Whether all was there.
    """

    rows: int
    documents: int
    tokens: int
    trained: int
    longest: int
    median: int
    held_out: int
    left_out: list[LeftOut] = field(default_factory=list)
    shortened: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchanged: bool = False

    def __str__(self) -> str:
        share = self.trained / self.tokens if self.tokens else 0.0
        left_out = sum(each.count for each in self.left_out)
        learnt = self.documents - self.held_out
        lines = [
            f"rows       {self.rows:,} read",
            f"documents  {learnt:,} to train on, {self.held_out:,} held out",
            f"tokens     {self.tokens:,}, {share:.1%} of them trained on",
            f"lengths    {self.longest:,} at most, {self.median:,} in the median",
            *_reasons(self.shortened),
            f"left out   {left_out:,}",
            *_reasons(self.left_out),
            *(f"note       {note}" for note in self.notes),
        ]
        return "\n".join([*lines, *["unchanged  nothing was to be done"] * self.unchanged])

    def as_json(self) -> dict[str, Any]:
        """Return it in the form that is written down; not whether it was there."""
        value = asdict(self)
        del value["unchanged"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TextSummary":
        """Return what was written down: it was there."""
        lists = {key: [LeftOut(**each) for each in value[key]] for key in ("left_out", "shortened")}
        return cls(**{**value, **lists}, unchanged=True)


def _reasons(reasons: list[LeftOut]) -> list[str]:
    return [
        f"  {each.count:,} × {each.reason} ({each.first}{' first' * (each.count > 1)})"
        for each in sorted(reasons, key=lambda each: -each.count)
    ]


class Counted:
    """Counts by reason, with the first place of each."""

    def __init__(self) -> None:
        self._found: dict[str, LeftOut] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one more."""
        self._found.setdefault(reason, LeftOut(reason, 0, where)).count += 1

    def all(self) -> list[LeftOut]:
        """Return what was counted, in the order in which it was met."""
        return list(self._found.values())
