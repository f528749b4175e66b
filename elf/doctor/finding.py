"""What a check found: one line of the report."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["good", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: The line's name, which no version changes.
        state: ``good``; ``note``: absent or scarce, and Elf goes on; ``broken``.
        found: What is so, in words.
        do: What to do, the exact command where there is one; empty if nothing is.
        facts: The same as plain values.
    """

    check: str
    state: State
    found: str
    do: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, without its name."""
        values = asdict(self)
        del values["check"]
        return values


def good(check: str, found: str, **facts: Any) -> Finding:
    """Return a line that says all is well."""
    return Finding(check, "good", found, "", facts)


def note(check: str, found: str, do: str, **facts: Any) -> Finding:
    """Return a line on what is absent or scarce."""
    return Finding(check, "note", found, do, facts)


def broken(check: str, found: str, do: str, **facts: Any) -> Finding:
    """Return a line on what does not work."""
    return Finding(check, "broken", found, do, facts)


def first_line(error: BaseException | str) -> str:
    """Return what an error says in one short line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else words[:199] + "…"
