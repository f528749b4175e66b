import json
from pathlib import Path

import pytest

from elf.world.elvish import lessons, questions, write_lessons
from elf.world.sights import Sight
from elf.world.talk import held_out, old_tasks
from elf.world.tongues import elvish


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("night", "Hear: nightdil forestthir lanternmor cloakbas redwen Galowen."),
        ("sunset", "Hear: sunsetdil forestthir lanternmor cloakbas redwen Galowen."),
        ("day", "Hear: daydil forestthir lanternfel cloakbas redwen Galowen."),
        ("dawn", "Hear: dawndil forestthir lanternfel cloakbas redwen Galowen."),
    ],
)
def test_each_part_has_its_ending_and_what_is_held_another_in_the_dark(
    time: str, said: str
) -> None:
    assert elvish(Sight("Galowen", "red", "cloak", "lantern", "forest", time)) == said


def test_the_same_seed_gives_the_same_lessons_and_more_begin_with_fewer() -> None:
    assert lessons(1, 10) == lessons(1, 20)[:10]
    assert lessons(1, 10) != lessons(2, 10)
    assert questions(1, 10) == questions(1, 20)[:10]


def test_some_lessons_ask_twice() -> None:
    assert {len(row["messages"]) for row in lessons(0, 40)} == {2, 4}


def test_no_lesson_has_a_held_out_question() -> None:
    taught = {message["content"] for row in lessons(0, 2000) for message in row["messages"]}
    asked = {row["messages"][0]["content"] for row in questions(0, 400)}
    assert len(asked) > 390
    assert all(held_out(question) for question in asked)
    assert not taught & asked
    assert not taught & {row["reference"] for row in questions(0, 400)}


def test_the_files_hold_lessons_questions_and_old_tasks(tmp_path: Path) -> None:
    files = write_lessons(tmp_path / "made" / "here", count=30, seed=5, questioned=9)
    read = {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name, path in files.items()
    }
    assert read == {
        "lessons.jsonl": lessons(5, 30),
        "questions.jsonl": questions(5, 9),
        "old.jsonl": old_tasks(5, 9),
    }
