"""Rows to train on and prompts to answer, one JSON object a line."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from oracle import Check, Finding, refused
from spoiling import spoiled_lines

from elf.language.prompts import read_prompts
from elf.language.rowfiles import read_rows

from . import join, split

LONGEST = 1 << 13
WORDS = (
    *(b'"messages"', b'"prompt"', b'"completion"', b'"text"', b'"role"', b'"content"', b'"id"'),
    *(b'"user"', b'"assistant"', b'"system"', b'"tool"', b'"type"', b'"tool_calls"', b"null"),
    *(b"\\ud83d", b"\\u0000", b"NaN", b"Infinity", b"1e999", b"\xef\xbb\xbf", b"\xff", b"\r\n"),
)


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield rows of every kind."""
    asked = {"role": "user", "content": "Who?"}
    said = {"role": "assistant", "content": [{"type": "text", "text": "Me."}]}
    rows = [
        {"messages": [{"role": "system", "content": "Be."}, asked, said]},
        {"prompt": "1 + 1 =", "completion": " 2"},
        {"text": "Once.", "prompt": None},
    ]
    prompts = [{"id": 3, "messages": [asked], "reference": "x"}, {"prompt": "1 +", "more": [1.5]}]
    for kind, lines in enumerate((rows, prompts)):
        yield join(kind, b"".join(json.dumps(row).encode() + b"\n" for row in lines))


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Spoil a line."""
    return data[:1] + spoiled_lines(data[1:], draw)


def target(folder: Path) -> Check:
    """Return the check of a file."""
    path = folder / "rows.jsonl"

    def check(data: bytes) -> None:
        kind, text = split(data, 2)
        path.write_bytes(text)
        with refused():
            if kind == 0:
                for row in read_rows([path]):
                    row.messages()
            else:
                for prompt, place in read_prompts(path):
                    if place.read(prompt.asked) != prompt:
                        raise Finding("another prompt the second time")

    return check
