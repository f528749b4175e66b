"""Prompts to be answered, one JSON object a line: chats that end with a question, or texts."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elf.checked import canonical
from elf.errors import ElfError
from elf.language.rowfiles import row_lines
from elf.language.rows import (
    Kind,
    Row,
    Turn,
    checked_text,
    checked_turns,
    json_name,
    json_object,
    refuse,
)

WRITTEN = ("answer", "tokens", "ended", "asked", "model", "adapter", "generation")
"""Keys that an answer's line has beside those of its prompt."""


@dataclass(frozen=True)
class Prompt:
    """What is to be answered.

    Attributes:
        id: The row's own, or 16 hex digits of the sha256 of all of it.
        asked: 16 hex digits of the sha256 of the whole row: another row of the same id has others.
        row: Its words, as a chat or as a prompt.
        own: All keys of the row but ``id``, as they stand there.
    """

    id: str
    asked: str
    row: Row
    own: Mapping[str, Any]

    @property
    def said(self) -> str | list[dict[str, str]]:
        """The chat's messages, or the prompt."""
        return self.row.messages() if self.row.kind == "chat" else self.row.turns[0].content

    @property
    def size(self) -> int:
        """Its characters, about which its tokens go."""
        return sum(len(turn.content) for turn in self.row.turns)


def parse_prompt(data: bytes, where: str) -> Prompt:
    """Return the prompt that a line of JSON holds.

    Args:
        data: The line.
        where: Its file and line, for messages.

    Raises:
        ElfError: If it is no JSON object, asks nothing, or has a key that answers have.
    """
    value = json_object(data, where)
    kind: Kind
    if value.get("messages") is not None:
        kind, turns = "chat", _chat(value["messages"], where)
    elif value.get("prompt") is not None:
        kind, turns = "prompt", (Turn("prompt", _asked(value["prompt"], where)),)
    else:
        keys = ", ".join(repr(key)[:20] for key in list(value)[:5]) or "nothing"
        refuse(where, f"asks nothing (it has {keys})", "a row has messages or prompt")
    for key in WRITTEN:
        if key in value:
            refuse(where, f"the key {key!r} is one that its answer gets", "give it another name")
    try:
        digest = hashlib.sha256(canonical(value)).hexdigest()[:16]
    except (ValueError, RecursionError):
        remedy = "write values that JSON has, in UTF-8"
        refuse(where, "a key holds NaN, an infinity or half a surrogate pair", remedy)
    name = value.pop("id", None)
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        refuse(where, f"`id` is {json_name(name)}", "write it as a string, or leave it out")
    key = digest if name is None else checked_text(str(name), where, "`id`")
    return Prompt(key, digest, Row(key, kind, turns, where), value)


def _chat(value: object, where: str) -> tuple[Turn, ...]:
    turns = checked_turns(value, where)
    if turns[-1].role == "assistant":
        refuse(
            where,
            "the last message is the assistant's, which is to be made",
            "end with a question; what is expected can stand in another key, such as reference",
        )
    return turns


def _asked(value: object, where: str) -> str:
    text = checked_text(value, where, "`prompt`")
    if not text:
        refuse(where, "`prompt` is empty", "leave the row out")
    return text


@dataclass(frozen=True)
class Place:
    """Where a prompt stands in its file.

    Attributes:
        where: The file and line, for messages.
        position: Of its first byte.
        length: Bytes.
    """

    path: Path
    where: str
    position: int
    length: int

    def read(self, key: str) -> Prompt:
        """Return the prompt.

        Raises:
            ElfError: If another stands there by now.
        """
        with open(self.path, "rb") as file:
            file.seek(self.position)
            data = file.read(self.length)
        prompt = parse_prompt(data, self.where)
        if prompt.asked != key:
            raise ElfError(f"{self.where}: changed while it was read; run the same command again")
        return prompt


def read_prompts(path: Path) -> Iterator[tuple[Prompt, Place]]:
    """Yield the prompts of a file, one in memory at a time.

    Raises:
        ElfError: If the file is unreadable or a row asks nothing, with its line.
    """
    try:
        for where, position, line in row_lines(path):
            yield parse_prompt(line, where), Place(path, where, position, len(line))
    except OSError as error:
        raise ElfError(
            f"{path} could not be read ({error.strerror or error}): mend it, or leave it out"
        ) from None
