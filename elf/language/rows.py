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


def parse_row(data: bytes, where: str) -> Row:
    """Return the row that a line of JSON holds.

    Args:
        data: The line.
        where: Its file and line, for messages.

    Raises:
        ElfError: If it is no JSON object in UTF-8, or not a row that can be trained on.
    """
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError as error:
        _refuse(where, f"not UTF-8 from byte {error.start + 1} on", "save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too large"
        _refuse(where, f"not JSON ({why})", "write one row a line, or delete that line")
    if not isinstance(value, dict):
        _refuse(where, f"{_name(value)}, no object", 'write rows as {"text": …}, one a line')
    # the others' columns are null where rows of several kinds were written by one tool
    value = {key: each for key, each in value.items() if each is not None}
    if "messages" in value:
        return _row("chat", _chat(value["messages"], where), where)
    if "prompt" in value and "completion" in value:
        prompt = _text(value["prompt"], where, "`prompt`")
        completion = _filled(value["completion"], where, "`completion`")
        return _row("prompt", (Turn("prompt", prompt), Turn("completion", completion)), where)
    if "text" in value:
        return text_row(_text(value["text"], where, "`text`"), where)
    keys = ", ".join(repr(key)[:20] for key in list(value)[:5]) or "nothing"
    _refuse(
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
        _refuse(where, f"not UTF-8 from byte {error.start + 1} on", "save the file as UTF-8")


def text_row(text: str, where: str) -> Row:
    """Return the row of a text."""
    return _row("text", (Turn("text", _filled(text, where, "the text")),), where)


def _row(kind: Kind, turns: tuple[Turn, ...], where: str) -> Row:
    digest = hashlib.sha256(canonical([kind, *turns])).hexdigest()
    return Row(digest[:16], kind, turns, where)


def _chat(value: object, where: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        what = "empty" if value == [] else _name(value)
        _refuse(where, f"`messages` is {what}", "give a list of messages with role and content")
    turns = tuple(_turn(message, where, number) for number, message in enumerate(value, 1))
    if all(turn.role != "assistant" for turn in turns):
        _refuse(where, "no assistant turn", "a chat is trained on what the assistant says")
    return turns


def _turn(message: object, where: str, number: int) -> Turn:
    if not isinstance(message, Mapping):
        _refuse(where, f"message {number} is {_name(message)}", "give role and content")
    role = message.get("role")
    if role not in ROLES:
        known = ", ".join(ROLES)
        _refuse(where, f"message {number} has the role {_shown(role)}", f"roles are {known}")
    if message.get("tool_calls") or message.get("function_call"):
        _refuse(
            where, f"message {number} calls a tool", "write the call into content, or leave out"
        )
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, where, number) for part in content)
    what = f"message {number}'s content"
    return Turn(role, (_filled if role == "assistant" else _text)(content, where, what))


def _part(part: object, where: str, number: int) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        return _text(part.get("text"), where, f"message {number}'s text")
    kind = _shown(part.get("type")) if isinstance(part, Mapping) else _name(part)
    _refuse(where, f"message {number} has a part that is {kind}", "only texts can be trained on")


def _filled(value: object, where: str, what: str) -> str:
    text = _text(value, where, what)
    if not text.strip():
        _refuse(where, f"{what} is empty", "leave the row out")
    return text


def _text(value: object, where: str, what: str) -> str:
    if not isinstance(value, str):
        _refuse(where, f"{what} is {_name(value)}, no string", "write it as one string")
    return _checked(value, where, what)


def _checked(text: str, where: str, what: str) -> str:
    if "\0" in text:
        _refuse(where, f"{what} holds a NUL character", "take it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(where, f"{what} holds half a surrogate pair", "write the file in UTF-8 anew")
    return text


def _name(value: object) -> str:
    """Return what a JSON value is called, with its article."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names = {dict: "an object", list: "a list", str: "a string", type(None): "missing or null"}
    return names.get(type(value), "something else")


def _shown(value: Any) -> str:
    return ascii(value)[:30]


def _refuse(where: str, what: str, remedy: str) -> NoReturn:
    raise ElfError(f"{where}: {what}; {remedy}")
