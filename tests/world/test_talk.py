import pytest

from elf.world.scene import COLOURS
from elf.world.sights import ITEMS, NAMES, PLACES, TIMES, Sight
from elf.world.talk import GREETINGS, chats, held_out, messages, old_tasks
from elf.world.tasks import TASKS, Turn

SIGHT = Sight("Galowen", "red", "cloak", "lantern", "forest", "night")


def first_questions(task_rows: list[dict[str, object]]) -> list[str]:
    return [row["messages"][0]["content"] for row in task_rows]  # type: ignore[index]


def test_a_sight_is_told_in_one_sentence() -> None:
    told = "Galowen in the red cloak holds the lantern in a forest at night."
    assert SIGHT.sentence == told


def test_the_same_seed_gives_the_same_chats_and_more_begin_with_fewer() -> None:
    assert chats(3, 20) == chats(3, 30)[:20]
    assert chats(3, 20) != chats(4, 20)
    assert old_tasks(3, 20) == old_tasks(3, 30)[:20]


def test_turns_of_user_and_assistant_take_turns() -> None:
    roles = {tuple(message["role"] for message in chat) for chat in chats(0, 200)}
    for found in roles:
        spoken = found[1:] if found[0] == "system" else found
        assert spoken == ("user", "assistant") * (len(spoken) // 2)
    assert any(found[0] == "system" for found in roles)
    assert max(len(found) for found in roles) >= 6


def test_nearly_every_chat_is_a_new_one() -> None:
    talks = [str(chat) for chat in chats(0, 5000)]
    assert len(set(talks)) > 4800


def test_what_is_held_out_is_in_no_training_chat() -> None:
    asked = {message["content"] for chat in chats(0, 2000) for message in chat}
    old = first_questions(old_tasks(0, 300))
    assert all(held_out(question) for question in old)
    assert not asked & set(old)


def test_held_out_chats_are_of_held_out_topics() -> None:
    greetings = {turn.question for turn in GREETINGS}
    opened = [
        next(message["content"] for message in chat if message["role"] == "user")
        for chat in chats(0, 50, evaluation=True)
    ]
    assert all(held_out(question) or question in greetings for question in opened)


def test_old_tasks_are_of_every_kind_and_follow_up() -> None:
    rows = old_tasks(0, 200)
    assert {len(row["messages"]) for row in rows} >= {1, 3}
    starts = {question.split()[0] for question in first_questions(rows)}
    assert {
        "Describe:",
        "Take",
        "Count:",
        "Sort:",
        "Repeat:",
        "Reverse:",
    } <= starts
    assert all(row["messages"][-1]["role"] == "user" for row in rows)


def test_turns_become_messages() -> None:
    assert messages((Turn("Hello.", "Hi."),)) == [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
    ]


class Script:
    """A random source that says what a test wants: the first choice, no shuffling, one chance."""

    def __init__(self, chance: float, number: int) -> None:
        self.chance, self.number = chance, number

    def random(self) -> float:
        return self.chance

    def choice(self, values):  # type: ignore[no-untyped-def]
        return values[0]

    def shuffle(self, values: list[str]) -> None:
        """Leave them."""

    def sample(self, values, count: int):  # type: ignore[no-untyped-def]
        return list(values)[:count]

    def randint(self, low: int, high: int) -> int:
        return self.number


FIRST = f"{NAMES[0]} in the red cloak holds the sword in a forest at dawn."


@pytest.mark.parametrize(
    ("task", "turns"),
    [
        (
            "describe",
            [
                (f"Describe: {NAMES[0]}, red cloak, sword, forest, dawn.", FIRST),
                ("Now with green.", FIRST.replace("red", "green")),
            ],
        ),
        (
            "parts",
            [(f"Take apart: {FIRST}", f"Parts: {NAMES[0]}, red, cloak, sword, forest, dawn.")],
        ),
        ("ask", [(f"{FIRST} Where is {NAMES[0]}?", "In a forest.")]),
        (
            "count",
            [
                ("Count: sword, sword, sword.", "There are three."),
                ("And one more?", "There are four."),
            ],
        ),
        ("sort", [("Sort: sword, staff, book.", "Sorted: book, staff, sword.")]),
        (
            "copy",
            [
                ("Repeat: wood elf dwarf.", "Again: wood elf dwarf."),
                ("And backwards?", "Backwards: dwarf elf wood."),
            ],
        ),
        (
            "say",
            [
                (
                    f"In dwarvish: {FIRST}",
                    f"Hear: redkon cloakgil sworddan forestven dawnbas {NAMES[0]}.",
                )
            ],
        ),
        ("backwards", [("Reverse: wood elf dwarf.", "Backwards: dwarf elf wood.")]),
    ],
)
def test_each_task_has_the_right_answers(task: str, turns: list[tuple[str, str]]) -> None:
    drawn = TASKS[task](Script(chance=0.0, number=3))  # type: ignore[arg-type]
    assert [(turn.question, turn.answer) for turn in drawn] == turns


def test_every_task_is_tried_above() -> None:
    assert len(TASKS) == 8
    assert len(COLOURS) * len(NAMES) * len(ITEMS) * len(PLACES) * len(TIMES) >= 100_000
