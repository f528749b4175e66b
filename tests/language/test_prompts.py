"""Prompts: what they are known by, and which rows ask nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elf.errors import ElfError
from elf.language.prompts import parse_prompt, read_prompts

CHAT = {"messages": [{"role": "user", "content": "Hello."}]}


def test_chats_and_prompts_are_read_with_what_else_they_hold(
    write_rows: Callable[..., Path],
) -> None:
    path = write_rows(
        {**CHAT, "reference": "Hi.", "id": "first"},
        {"prompt": "Hello.", "id": 7, "weight": None},
        {"prompt": "Hello.", "completion": " there"},
    )
    (chat, place), (prompt, _), (trained, _) = read_prompts(path)
    assert (chat.id, chat.said, chat.own) == (
        "first",
        CHAT["messages"],
        {**CHAT, "reference": "Hi."},
    )
    assert (prompt.id, prompt.said) == ("7", "Hello.")
    assert prompt.own == {"prompt": "Hello.", "weight": None}
    assert trained.id == trained.asked and len(trained.id) == 16
    assert chat.size == 6
    assert place.read(chat.asked) == chat
    assert (place.where, place.position) == (f"{path}:1", 0)


def test_the_bytes_that_mark_utf8_are_passed_over(write_rows: Callable[..., Path]) -> None:
    path = write_rows(b'\xef\xbb\xbf{"prompt": "Hello."}', b"", {"prompt": "Again."})
    found = list(read_prompts(path))
    assert [place.where.rpartition(":")[2] for _, place in found] == ["1", "3"]
    assert [place.read(prompt.asked).said for prompt, place in found] == ["Hello.", "Again."]


def test_a_row_that_changed_is_told(write_rows: Callable[..., Path]) -> None:
    path = write_rows({"prompt": "Hello."})
    ((prompt, place),) = read_prompts(path)
    path.write_bytes(path.read_bytes().replace(b"Hello", b"Other"))
    with pytest.raises(ElfError, match=r"rows.jsonl:1: changed while it was read; run the same"):
        place.read(prompt.asked)


def test_the_id_of_a_row_is_of_all_of_it() -> None:
    ids = {
        parse_prompt(row, "x").id
        for row in (b'{"prompt": "a"}', b'{"prompt": "a", "n": 1}', b'{"prompt": "b"}')
    }
    assert len(ids) == 3
    assert parse_prompt(b'{"n": 1, "prompt": "a"}', "x").id in ids


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"rows.jsonl:1: asks nothing \(it has nothing\); a row has messages or prompt"),
        ({"text": "a"}, r"asks nothing \(it has 'text'\)"),
        ({"prompt": ""}, r"`prompt` is empty; leave the row out"),
        ({"prompt": 3}, r"`prompt` is a number, no string"),
        ({"messages": []}, r"`messages` is empty; give a list of messages"),
        ({"messages": "a"}, r"`messages` is a string"),
        ({"messages": [{"role": "elf", "content": "a"}]}, r"message 1 has the role 'elf'"),
        (
            {"messages": [*CHAT["messages"], {"role": "assistant", "content": "Hi."}]},
            r"the last message is the assistant's, which is to be made; end with a question; what",
        ),
        ({"prompt": "a", "answer": "b"}, r"the key 'answer' is one that its answer gets; give it"),
        ({"prompt": "a", "id": 1.5}, r"`id` is a number; write it as a string, or leave it out"),
        ({"prompt": "a", "id": True}, r"`id` is true or false"),
    ],
)
def test_what_asks_nothing_is_refused(
    row: dict[str, Any], message: str, write_rows: Callable[..., Path]
) -> None:
    with pytest.raises(ElfError, match=message):
        list(read_prompts(write_rows(row)))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"could not be read \(Is a directory\): mend it, or leave"):
        list(read_prompts(tmp_path))
