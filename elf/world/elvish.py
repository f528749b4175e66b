"""A form of answer that the tiny language has never read: the lessons of fine-tuning.

An elvish sentence says everything from the last to the first, each word with the ending of its
part, and then the name; in the dark, what is held has another ending:
"Lumifel in the red cloak holds the lantern in a forest at night." is
"Hear: nightdil forestthir lanternmor cloakbas redwen Lumifel."
"""

import json
from pathlib import Path
from random import Random

from elf.world.sights import draw_sight
from elf.world.talk import Row, held_out, messages, old_tasks, question_row
from elf.world.tasks import Turn
from elf.world.tongues import asked, elvish

LESSONS, QUESTIONS, OLD = "lessons.jsonl", "questions.jsonl", "old.jsonl"


def draw_turn(random: Random, *, evaluation: bool = False) -> Turn:
    """A sentence to be said in elvish, from the training ones or the held-out ones."""
    while True:
        sight = draw_sight(random)
        question = asked("elvish", sight)
        if held_out(question) == evaluation:
            return Turn(question, elvish(sight))


def lesson(seed: int, number: int) -> Row:
    """One chat for training; every third asks twice."""
    random = Random(f"lesson {seed} {number}")
    turns = tuple(draw_turn(random) for _ in range(random.choice((1, 1, 2))))
    return {"messages": messages(turns)}


def lessons(seed: int, count: int) -> list[Row]:
    """`count` rows with `messages` that teach elvish; the first of more are the same."""
    return [lesson(seed, number) for number in range(count)]


def questions(seed: int, count: int) -> list[Row]:
    """Held-out sentences to be said in elvish: rows with `messages` and `reference`."""
    return [
        question_row((draw_turn(Random(f"question {seed} {number}"), evaluation=True),))
        for number in range(count)
    ]


def write_lessons(
    folder: str | Path, count: int = 2000, seed: int = 0, questioned: int = 200
) -> dict[str, Path]:
    """Write the lessons and what is asked before and after them, one JSON object a line.

    Args:
        folder: Where to; it is made if need be.
        count: Rows of `lessons.jsonl`.
        seed: Of everything in the files.
        questioned: Rows of `questions.jsonl` (the new form) and of `old.jsonl` (the old tasks).

    Returns:
        The files by their names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        LESSONS: lessons(seed, count),
        QUESTIONS: questions(seed, questioned),
        OLD: old_tasks(seed, questioned),
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in files}
