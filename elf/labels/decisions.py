"""What a reviewer decided about pictures, by id: it wins over the models for ever after.

``decisions.jsonl`` holds one decision a line, later lines win key by key:

    {"id": "…", "keep": false}                      leave the picture out
    {"id": "…", "tags": ["…"], "caption": "…"}      these, whatever the models say
    {"id": "…", "tags": null}                       the models' again
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.files import AppendLog, is_text, iterate_log
from elf.images import is_picture_id
from elf.labels.records import Record

DECISIONS = "decisions.jsonl"
PATIENCE = 10.0  # seconds

Decision = dict[str, Any]
"""``keep`` (a bool), ``tags`` (a list of strings), ``caption`` (a string): those that were made."""

_WANTED = {"keep": "true, false or null", "tags": "a list of strings or null",
           "caption": "a string or null"}  # fmt: skip


def read_decisions(folder: str | Path) -> dict[str, Decision]:
    """Return the decisions in force in a labels folder, by id.

    Raises:
        ElfError: If a line is damaged or says something else, with its number.
    """
    path = Path(folder) / DECISIONS
    decisions: dict[str, Decision] = {}
    for number, line in enumerate(iterate_log(path), 1):
        problem = _problem(line)
        if problem:
            raise ElfError(f"{path}, line {number}: {problem}; mend or delete that line")
        decision = decisions.setdefault(line["id"], {})
        for key in _WANTED.keys() & line.keys():
            if line[key] is None:
                decision.pop(key, None)
            else:
                decision[key] = line[key]
    return {key: decision for key, decision in decisions.items() if decision}


def _problem(line: Record) -> str:
    if not is_picture_id(line.get("id")):
        return "no `id` of 16 hex digits"
    good = {
        "keep": isinstance(line.get("keep"), bool | None),
        "caption": line.get("caption") is None or is_text(line["caption"]),
        "tags": line.get("tags") is None
        or (isinstance(line["tags"], list) and all(map(is_text, line["tags"]))),
    }
    for key, wanted in _WANTED.items():
        if not good[key]:
            return f"`{key}` must be {wanted}"
    if not _WANTED.keys() & line.keys():
        return f"decides nothing: it has none of {', '.join(_WANTED)}"
    return ""


def add_decisions(folder: str | Path, decisions: Iterable[Record]) -> int:
    """Append decisions, durably; return how many.

    Several processes may do so at the same time: each waits for its turn.

    Raises:
        ElfError: If one of them is none, or if another process writes there for :data:`PATIENCE`.
    """
    lines = list(decisions)
    for line in lines:
        if problem := _problem(line):
            raise ElfError(f"decision {line}: {problem}; nothing was written, mend it")
    if lines:
        with _open_log(Path(folder) / DECISIONS) as log:
            log.append(*lines)
    return len(lines)


def _open_log(path: Path) -> AppendLog:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return AppendLog(path, keep_records=False)
        except ElfError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def apply_decision(record: Record, decision: Decision | None) -> Record:
    """Return a manifest's record as the reviewer wants it.

    What the models said stays under ``attributes.before_review``, so that applying again, or no
    decision any more, gives what it should. A picture that is left out has no tags and no
    caption, and so nothing that a later step could train with.
    """
    attributes = dict(record.get("attributes", {}))
    if decision is None and "before_review" not in attributes:
        return record
    before = attributes.pop("before_review", None) or {
        "tags": record["tags"],
        "caption": record.get("caption"),
    }
    attributes.pop("decision", None)
    result = record | before | {"attributes": attributes}
    if decision is None:
        return result
    edited = sorted(decision.keys() & {"tags", "caption"})
    attributes["decision"] = {"keep": decision.get("keep"), "edited": edited}
    attributes["before_review"] = before
    result |= {key: decision[key] for key in edited}
    if decision.get("keep") is False:
        result |= {"tags": [], "caption": None}
    return result


def is_left_out(record: Record) -> bool:
    """Whether a reviewer left a record's picture out."""
    return record.get("attributes", {}).get("decision", {}).get("keep") is False
