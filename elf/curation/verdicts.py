"""Keep and drop in ``decisions.jsonl``: whose they are, and how proposals and choices get there.

A line of ``elf curate`` says so (``by``) and why (``reason``). It holds like any other, but it is
no person's: it follows the proposals when pictures come or go, and a person's line, earlier or
later, wins over it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.files import iterate_log, read_log
from elf.images import is_picture_id
from elf.labels.decisions import DECISIONS, add_decisions, read_decisions

BY = "elf curate"

_KNOWN = {"id", "keep", "path", "by", "reason"}
"""Keys of a line that the contact sheet saves."""


@dataclass(frozen=True)
class Verdict:
    """What is decided about a picture.

    Attributes:
        keep: Whether it stays.
        by_person: Whether a person said so, not ``elf curate --accept``.
    """

    keep: bool
    by_person: bool


def read_verdicts(labels: Path) -> dict[str, Verdict]:
    """Return the keep and drop decisions in force, by id.

    Raises:
        ElfError: If a line of the decisions is damaged.
    """
    decisions = read_decisions(labels)
    by_person = {
        line["id"]: line.get("by") != BY
        for line in iterate_log(labels / DECISIONS)
        if "keep" in line
    }
    return {
        key: Verdict(decision["keep"], by_person[key])
        for key, decision in decisions.items()
        if "keep" in decision
    }


def accept(labels: Path, proposals: dict[str, str | None], verdicts: dict[str, Verdict]) -> int:
    """Write proposals as decisions where no person decided; return how many lines that took.

    Args:
        labels: Folder of the decisions.
        proposals: By id, why a picture is to be dropped; none if it is to stay.
        verdicts: In force.
    """
    lines: list[dict[str, Any]] = []
    for key, reason in proposals.items():
        verdict = verdicts.get(key)
        if verdict is not None and verdict.by_person:
            continue
        if reason is not None and (verdict is None or verdict.keep):
            lines.append({"id": key, "keep": False, "by": BY, "reason": reason})
        elif reason is None and verdict is not None:
            lines.append({"id": key, "keep": None, "by": BY, "reason": "no reason any more"})
    return add_decisions(labels, lines)


def apply_file(labels: Path, file: Path) -> tuple[int, int]:
    """Write what was chosen on a contact sheet as decisions; return how many, of how many.

    What holds already is not written again: a file may be applied twice.

    Raises:
        ElfError: If there is no such file or it holds anything else; nothing is written then.
    """
    if not file.is_file():
        raise ElfError(f"apply: no file {file}; save it from the contact sheet first")
    chosen: dict[str, bool | None] = {}
    for number, line in enumerate(_read_choices(file), 1):
        if problem := _problem(line):
            raise ElfError(
                f"{file}, line {number}: {problem}: no choice of a contact sheet; save it from "
                "there again, or delete that line"
            )
        chosen[line["id"]] = line["keep"]
    verdicts = read_verdicts(labels)
    lines = [
        {"id": key, "keep": keep}
        for key, keep in chosen.items()
        if verdicts.get(key) != (None if keep is None else Verdict(keep, True))
    ]
    return add_decisions(labels, lines), len(chosen)


def _problem(line: dict[str, Any]) -> str:
    for strange in sorted(line.keys() - _KNOWN):
        return f"has {strange!r}"
    if not is_picture_id(line.get("id")):
        return "has no `id` of 16 hex digits"
    if not isinstance(line.get("keep", ""), bool | None):
        return "`keep` must be true, false or null"
    return ""


def _read_choices(file: Path) -> Iterable[dict[str, Any]]:
    """Return the lines of a file that a browser saved: one that is torn was a choice."""
    try:
        choices = read_log(file)
        count = len(file.read_bytes().splitlines())
    except OSError as error:
        raise ElfError(f"apply: {file} could not be read ({error.strerror or error})") from None
    if len(choices) != count:
        raise ElfError(
            f"apply: {file} is cut in its line {count}: save it from the contact sheet again"
        )
    return choices
