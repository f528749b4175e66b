"""Prompts with what is expected, and documents of what is not to be forgotten, from files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.files import write_atomic
from elf.language.prompts import Prompt, parse_prompt
from elf.language.rowfiles import row_lines
from elf.language.rows import checked_text, json_object, parse_row, refuse

REFERENCE = "reference"


@dataclass(frozen=True)
class Asked:
    """A prompt of an evaluation.

    Attributes:
        prompt: It.
        reference: The right answer; None if no one said.
        forgetting: Whether it is of what is not to be forgotten.
    """

    prompt: Prompt
    reference: str | None
    forgetting: bool

    @property
    def text(self) -> str:
        """What is asked, as the report shows it."""
        turns = self.prompt.row.turns
        if len(turns) == 1:
            return turns[0].content
        return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def read_asked(files: Sequence[str]) -> list[Asked]:
    """Return the prompts of files, with their ``reference`` where a row has one.

    Raises:
        ElfError: If a file is missing or unreadable, or a row asks nothing, with its line.
    """
    return [
        Asked(parse_prompt(line, where), _reference(line, where), forgetting=False)
        for where, line in _lines(files, "data.prompts")
    ]


def read_forgetting(files: Sequence[str], plain: bool) -> tuple[list[Asked], list[dict[str, Any]]]:
    """Return what is not to be forgotten: prompts, and documents.

    A row with a ``reference`` is a prompt, and a document with that answer, too; any other is a
    document, as in training.

    Args:
        files: .jsonl files.
        plain: Whether a prompt is continued as it stands, and not answered in a chat.

    Returns:
        The prompts, and the rows of the documents.

    Raises:
        ElfError: If a file is missing or unreadable, or a row is neither, with its line.
    """
    asked: list[Asked] = []
    rows: list[dict[str, Any]] = []
    for where, line in _lines(files, "data.forgetting"):
        reference = _reference(line, where)
        if reference is None:
            parse_row(line, where)
            rows.append(json_object(line, where))
            continue
        prompt = parse_prompt(line, where)
        asked.append(Asked(prompt, reference, forgetting=True))
        rows.append(_answered(prompt, reference, plain))
    return asked, rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows, one JSON object a line; the same gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def _answered(prompt: Prompt, reference: str, plain: bool) -> dict[str, Any]:
    """Return the row that trains on an answer."""
    turns = prompt.row.turns
    if prompt.row.kind == "prompt" and plain:
        return {"prompt": turns[0].content, "completion": reference}
    said = [
        {"role": "user" if turn.role == "prompt" else turn.role, "content": turn.content}
        for turn in turns
    ]
    return {"messages": [*said, {"role": "assistant", "content": reference}]}


def _lines(files: Sequence[str], key: str) -> list[tuple[str, bytes]]:
    found = []
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise ElfError(f"{key}: no file {name}; give .jsonl files")
        try:
            found += [(where, line) for where, _, line in row_lines(path)]
        except OSError as error:
            raise ElfError(f"{key}: {path} could not be read ({error.strerror or error})") from None
    return found


def _reference(line: bytes, where: str) -> str | None:
    value = json_object(line, where).get(REFERENCE)
    if value is None:
        return None
    text = checked_text(value, where, f"`{REFERENCE}`")
    if not text.strip():
        refuse(where, f"`{REFERENCE}` is empty", "leave the key out, or say what is right")
    return text
