"""Spoils values of JSON at any depth: other kinds, lengths and names than were meant."""

import json
import random
from typing import Any

NASTY: list[Any] = [
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 2**64, 10**400, 1.5, 1e308),
    *(float("nan"), float("inf"), "", "a", "\\", "(", ".*", "\ud83d", "\0", "../a", "/etc", "\n"),
    *([], [0], [-1], [2, 2], [1 << 40, 1 << 40], [1.5], ["a"], [[1]], [0, 0], [8, 4], {}, {"a": 1}),
]
DEEP = ["[" * 900 + "]" * 900, "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "1" * 5000]
"""Texts that are deeper or longer than parsers like; no value of Python's is written so."""


def spoil(value: Any, draw: random.Random, nasty: list[Any] = NASTY) -> Any:
    """Replace, remove or rename something in a JSON value, at any depth."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return draw.choice(nasty)
    place = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
    what = draw.random()
    if what < 0.15:
        del value[place]
    elif what < 0.3 and isinstance(value, dict):
        value[draw.choice([*value, "a", "", place + ".a", place[:-1]])] = value.pop(place)
    else:
        value[place] = spoil(value[place], draw, nasty)
    return value


def spoiled_json(text: bytes, draw: random.Random) -> bytes:
    """Return a text of JSON with something spoiled in it; unchanged if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    try:
        made = json.dumps(spoil(value, draw))
    except RecursionError:
        return text
    if draw.random() < 0.02:
        made = made.replace("1", draw.choice(DEEP), 1)
    return made.encode()


def spoiled_lines(text: bytes, draw: random.Random) -> bytes:
    """Return lines of JSON with one of them spoiled, doubled or moved."""
    lines = text.split(b"\n")
    at = draw.randrange(len(lines))
    match draw.randrange(6):
        case 0:
            lines.insert(draw.randrange(len(lines)), lines[at])
        case 1:
            del lines[at]
        case _:
            lines[at] = spoiled_json(lines[at], draw)
    return b"\n".join(lines)
