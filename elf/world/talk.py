"""Short chats about the world, as many as are wanted, from a seed: what the tiny language reads."""

import zlib
from random import Random
from typing import Any

from elf.world.tasks import TASKS, Topic, Turn

Message = dict[str, str]
Row = dict[str, Any]
"""One line of a JSONL file."""

HELD_OUT_SHARE = 8
"""One topic in so many is held out by its first question: no chat for training has it."""

HARD = ("copy", "backwards")
"""Tasks that are learnt last: chats have them three times as often as the others."""

GUIDE = "You are the guide of the wood."

GREETINGS = (
    Turn("Hello.", "Hello, traveller. Ask me about the wood."),
    Turn("Who are you?", "I am the guide of the wood."),
    Turn("Can you speak elvish?", "No, I speak dwarvish, fairish and ghostly."),
    Turn("Thank you.", "You are welcome, traveller."),
)
"""Small talk, the same in every chat that has it."""


def held_out(question: str) -> bool:
    """Whether a topic that begins with this question is kept for evaluation."""
    return zlib.crc32(question.encode()) % HELD_OUT_SHARE == 0


def draw_topic(task: str, random: Random, *, evaluation: bool = False) -> Topic:
    """A topic of a task by lot, from the training ones or the held-out ones."""
    while True:
        topic = TASKS[task](random)
        if held_out(topic[0].question) == evaluation:
            return topic


def messages(turns: Topic) -> list[Message]:
    """Turns as the messages of a chat."""
    pairs = (
        ({"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer})
        for turn in turns
    )
    return [message for pair in pairs for message in pair]


def question_row(turns: Topic) -> Row:
    """A chat up to its last question as `messages`, and the right answer as `reference`."""
    *asked, answer = messages(turns)
    return {"messages": asked, "reference": answer["content"]}


def chat(seed: int, number: int, *, evaluation: bool = False) -> list[Message]:
    """One chat of one to three topics; a tenth have a system message, a tenth small talk."""
    random = Random(f"chat {seed} {number} {evaluation}")
    topics = [
        draw_topic(random.choice((*TASKS, *HARD, *HARD)), random, evaluation=evaluation)
        for _ in range(random.choice((1, 1, 2, 3)))
    ]
    if random.random() < 0.1:
        topics.insert(random.randint(0, len(topics)), (random.choice(GREETINGS),))
    turns = tuple(turn for topic in topics for turn in topic)
    guide = [{"role": "system", "content": GUIDE}] if random.random() < 0.1 else []
    return guide + messages(turns)


def chats(seed: int, count: int, *, evaluation: bool = False) -> list[list[Message]]:
    """`count` chats; the first of more are the same."""
    return [chat(seed, number, evaluation=evaluation) for number in range(count)]


def old_tasks(seed: int, count: int) -> list[Row]:
    """Held-out questions of every task in turn, follow-ups too, with their right answers.

    Other tongues are left out: who learns one more of them says it in place of these.

    Returns:
        Rows with `messages`, which end with the question, and `reference`.
    """
    rows = []
    names = [name for name in TASKS if name != "say"]
    for number in range(count):
        random = Random(f"old task {seed} {number}")
        topic = draw_topic(names[number % len(names)], random, evaluation=True)
        rows.append(question_row(topic[: random.randint(1, len(topic))]))
    return rows
