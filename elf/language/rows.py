"""Rows of text as others wrote them: chats, prompts with completions, plain texts.

A row is a JSON object, one a line. Nothing in it is trusted: what cannot be trained on is refused
with its file and line, before a model sees it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

from elf.checked import canonical
from elf.errors import ElfError

ROLES = ("system", "user", "assistant", "tool")
Kind = Literal["chat", "prompt", "text"]


class Turn(NamedTuple):
    """Who says what; the parts of rows that are no chats are called as their keys."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        id: 16 hex digits of the sha256 of what is used of it, wherever it stands.
        kind: ``chat``; ``prompt`` with a completion; or ``text``.
        turns: What is said: a chat's messages; ``prompt`` and ``completion``; or ``text``.
        where: Its file and line, for messages.
    """

    id: str
    kind: Kind
    turns: tuple[Turn, ...]
    where: str

    def messages(self) -> list[dict[str, str]]:
        """Return a chat's messages in the form that chat templates take."""
        return [{"role": role, "content": content} for role, content in self.turns]


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the object that a line of JSON holds.

    Raises:
        ElfError: If it is no JSON object in UTF-8.
    """
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError as error:
        refuse(where, f"not UTF-8 from byte {error.start + 1} on", "save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too large"
        refuse(where, f"not JSON ({why})", "write one row a line, or delete that line")
    if not isinstance(value, dict):
        refuse(where, f"{json_name(value)}, no object", 'write rows as {"text": …}, one a line')
    return value


def parse_row(data: bytes, where: str) -> Row:
    """Return the row that a line of JSON holds.

    Args:
        data: The line.
        where: Its file and line, for messages.

    Raises:
        ElfError: If it is no JSON object in UTF-8, or not a row that can be trained on.
    """
    value = json_object(data, where)
    # the others' columns are null where rows of several kinds were written by one tool
    value = {key: each for key, each in value.items() if each is not None}
    if "messages" in value:
        return _row("chat", _chat(value["messages"], where), where)
    if "prompt" in value and "completion" in value:
        prompt = checked_text(value["prompt"], where, "`prompt`")
        completion = _filled(value["completion"], where, "`completion`")
        return _row("prompt", (Turn("prompt", prompt), Turn("completion", completion)), where)
    if "text" in value:
        return text_row(checked_text(value["text"], where, "`text`"), where)
    keys = ", ".join(repr(key)[:20] for key in list(value)[:5]) or "nothing"
    refuse(
        where,
        f"no known keys (it has {keys})",
        "a row has messages, prompt and completion, or text",
    )


def parse_text(data: bytes, where: str) -> Row:
    """Return the row of a plain text.

    Raises:
        ElfError: If it is not UTF-8, or nothing to train on.
    """
    try:
        return text_row(_checked(data.decode(), where, "the text"), where)
    except UnicodeDecodeError as error:
        refuse(where, f"not UTF-8 from byte {error.start + 1} on", "save the file as UTF-8")


def text_row(text: str, where: str) -> Row:
    """Return the row of a text."""
    return _row("text", (Turn("text", _filled(text, where, "the text")),), where)


def _row(kind: Kind, turns: tuple[Turn, ...], where: str) -> Row:
    digest = hashlib.sha256(canonical([kind, *turns])).hexdigest()
    return Row(digest[:16], kind, turns, where)


def _chat(value: object, where: str) -> tuple[Turn, ...]:
    turns = checked_turns(value, where)
    if all(turn.role != "assistant" for turn in turns):
        refuse(where, "no assistant turn", "a chat is trained on what the assistant says")
    return turns


def checked_turns(value: object, where: str) -> tuple[Turn, ...]:
    """Return the messages of a chat.

    Raises:
        ElfError: If they are no list, or one is no message, or not of words alone.
    """
    if not isinstance(value, list) or not value:
        what = "empty" if value == [] else json_name(value)
        refuse(where, f"`messages` is {what}", "give a list of messages with role and content")
    return tuple(checked_turn(message, where, number) for number, message in enumerate(value, 1))


def checked_turn(message: object, where: str, number: int) -> Turn:
    """Return a message of a chat, the number-th.

    Raises:
        ElfError: If it is none, or not of words alone.
    """
    if not isinstance(message, Mapping):
        refuse(where, f"message {number} is {json_name(message)}", "give role and content")
    role = message.get("role")
    if role not in ROLES:
        known = ", ".join(ROLES)
        refuse(where, f"message {number} has the role {_shown(role)}", f"roles are {known}")
    if message.get("tool_calls") or message.get("function_call"):
        refuse(where, f"message {number} calls a tool", "write the call into content, or leave out")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, where, number) for part in content)
    what = f"message {number}'s content"
    return Turn(role, (_filled if role == "assistant" else checked_text)(content, where, what))


def _part(part: object, where: str, number: int) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        return checked_text(part.get("text"), where, f"message {number}'s text")
    kind = _shown(part.get("type")) if isinstance(part, Mapping) else json_name(part)
    refuse(where, f"message {number} has a part that is {kind}", "only texts can be trained on")


def _filled(value: object, where: str, what: str) -> str:
    text = checked_text(value, where, what)
    if not text.strip():
        refuse(where, f"{what} is empty", "leave the row out")
    return text


def checked_text(value: object, where: str, what: str) -> str:
    """Return a string that every tokenizer takes.

    Raises:
        ElfError: If it is none.
    """
    if not isinstance(value, str):
        refuse(where, f"{what} is {json_name(value)}, no string", "write it as one string")
    return _checked(value, where, what)


def _checked(text: str, where: str, what: str) -> str:
    if "\0" in text:
        refuse(where, f"{what} holds a NUL character", "take it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        refuse(where, f"{what} holds half a surrogate pair", "write the file in UTF-8 anew")
    return text


def json_name(value: object) -> str:
    """Return what a JSON value is called, with its article."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names = {dict: "an object", list: "a list", str: "a string", type(None): "missing or null"}
    return names.get(type(value), "something else")


def _shown(value: Any) -> str:
    return ascii(value)[:30]


def refuse(where: str, what: str, remedy: str) -> NoReturn:
    """Refuse a row: its place, what is wrong, the way out."""
    raise ElfError(f"{where}: {what}; {remedy}")
