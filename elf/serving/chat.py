"""What is asked in a chat, within limits."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from elf.errors import ElfError
from elf.language.rows import Row, Turn, checked_text, checked_turn
from elf.serving.request import LARGEST_SEED

LONGEST_CHAT = 100_000
"""Characters of all messages together."""
MOST_MESSAGES = 400


@dataclass(frozen=True)
class ChatLimits:
    """What one answer may take.

    Attributes:
        longest_answer: Tokens.
        strengths: Least and largest factor on an adapter's update.
        temperature: At most.
    """

    longest_answer: int = 1024
    strengths: tuple[float, float] = (-1.0, 2.0)
    temperature: float = 2.0


@dataclass(frozen=True)
class ChatRequest:
    """An answer that is asked for.

    Attributes:
        turns: What was said so far, the user's last.
        system: What the model is told first; nothing if empty.
        adapter: Its name; None is the base.
        strength: Factor on its update.
        temperature: 0 takes the likeliest token each time.
        top_p: Drawn among the likeliest tokens that have this share together.
        max_tokens: Of the answer.
        seed: Of the draws; -1 draws one.
    """

    turns: tuple[Turn, ...]
    system: str = ""
    adapter: str | None = None
    strength: float = 1.0
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 256
    seed: int = -1

    @property
    def row(self) -> Row:
        """The chat, the system's words first."""
        system = (Turn("system", self.system),) if self.system.strip() else ()
        return Row("", "chat", (*system, *self.turns), "the chat")

    def checked(self, limits: ChatLimits) -> "ChatRequest":
        """Return it with a seed.

        Raises:
            ElfError: If a value is none, or beyond the limits, with its name.
        """
        low, high = limits.strengths
        for name, value, least, most in (
            ("strength", self.strength, low, high),
            ("temperature", self.temperature, 0, limits.temperature),
            ("top_p", self.top_p, 0.01, 1),
            ("max_tokens", self.max_tokens, 1, limits.longest_answer),
            ("seed", self.seed, -1, LARGEST_SEED),
        ):
            if not (math.isfinite(value) and least <= value <= most):
                raise ElfError(f"{name} {value} is not within {least} to {most}")
        if len(self.turns) > MOST_MESSAGES:
            raise ElfError(f"a chat of {len(self.turns)} messages, of {MOST_MESSAGES} at most")
        size = sum(len(turn.content) for turn in self.row.turns)
        if size > LONGEST_CHAT:
            raise ElfError(f"a chat of {size} characters, of {LONGEST_CHAT} at most")
        seed = random.randint(0, LARGEST_SEED) if self.seed < 0 else self.seed
        return replace(self, seed=seed)


def turns_of(history: Sequence[Any] | None, message: str | None) -> tuple[Turn, ...]:
    """Return a chat's turns: what a page, or a program, sent as history, and the new message.

    Raises:
        ElfError: If a message is not of words alone, of another role than user and assistant, or
            nothing is asked.
    """
    turns = tuple(_turn(each, number) for number, each in enumerate(history or [], 1))
    asked = checked_text(message or "", "message", "it")
    if not asked.strip():
        raise ElfError("message: nothing is asked; write something")
    return (*turns, Turn("user", asked))


def _turn(message: Any, number: int) -> Turn:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ("user", "assistant"):
        raise ElfError(
            f"history: message {number} has the role {ascii(role)[:30]}; roles are user and "
            "assistant, and system is a field of its own"
        )
    # an answer that was stopped at once is empty
    words = checked_turn({"role": "user", "content": message.get("content")}, "history", number)
    return Turn(role, words.content)
