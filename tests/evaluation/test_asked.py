"""Prompts with references, and rows of what is not to be forgotten."""

import json
from pathlib import Path
from typing import Any

import pytest

from elf.errors import ElfError
from elf.evaluation.asked import read_asked, read_forgetting, write_rows

USER = {"role": "user", "content": "Where is Mira?"}
ANSWER = {"role": "assistant", "content": "In the cave."}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_prompts_have_a_reference_or_none(tmp_path: Path) -> None:
    chat = {"messages": [USER, ANSWER, {"role": "user", "content": "And Ole?"}], "reference": "No."}
    file = write(tmp_path / "a.jsonl", chat, {"prompt": "Once"})
    first, second = read_asked([file])
    assert first.text == "user: Where is Mira?\nassistant: In the cave.\nuser: And Ole?"
    assert (first.reference, second.reference) == ("No.", None)
    assert second.text == "Once" and not second.forgetting


def test_what_is_not_to_be_forgotten_is_asked_and_read(tmp_path: Path) -> None:
    file = write(
        tmp_path / "old.jsonl",
        {"messages": [USER], "reference": "In the cave."},
        {"prompt": "Once", "reference": "upon a time"},
        {"text": "It was dark."},
        {"messages": [USER, ANSWER]},
    )
    asked, rows = read_forgetting([file], plain=False)
    assert [(each.text, each.reference) for each in asked] == [
        ("Where is Mira?", "In the cave."),
        ("Once", "upon a time"),
    ]
    assert all(each.forgetting for each in asked)
    assert rows == [
        {"messages": [USER, ANSWER]},
        {
            "messages": [
                {"role": "user", "content": "Once"},
                {"role": "assistant", "content": "upon a time"},
            ]
        },
        {"text": "It was dark."},
        {"messages": [USER, ANSWER]},
    ]
    _, plain = read_forgetting([file], plain=True)
    assert plain[1] == {"prompt": "Once", "completion": "upon a time"}
    write_rows(tmp_path / "made" / "rows.jsonl", plain)
    lines = (tmp_path / "made" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == plain


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER], "reference": 3}, "a.jsonl:1: `reference` is a number, no string"),
        ({"prompt": "x", "reference": " "}, "a.jsonl:1: `reference` is empty; leave the key out"),
        ({"text": "x"}, "a.jsonl:1: asks nothing (it has 'text'); a row has messages or prompt"),
    ],
)
def test_rows_that_ask_nothing_are_refused(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ElfError) as error:
        read_asked([write(tmp_path / "a.jsonl", row)])
    assert message in str(error.value)


def test_old_rows_that_train_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"old\.jsonl:1: no assistant turn; a chat is trained on"):
        read_forgetting([write(tmp_path / "old.jsonl", {"messages": [USER]})], plain=False)


@pytest.mark.parametrize(("read", "key"), [(read_asked, "data.prompts"), (None, "data.forgetting")])
def test_a_missing_file_is_named_with_its_key(read: Any, key: str) -> None:
    with pytest.raises(ElfError) as error:
        read(["nowhere.jsonl"]) if read else read_forgetting(["nowhere.jsonl"], plain=False)
    assert str(error.value) == f"{key}: no file nowhere.jsonl; give .jsonl files"
