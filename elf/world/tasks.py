"""The tasks that a chat about the world is made of: questions, each with its one right answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from elf.world.scene import COLOURS
from elf.world.sights import ITEMS, PLACES, TIMES, another, draw_sight
from elf.world.tongues import TONGUES, asked
from elf.world.tongues import say as said
from elf.world.words import NAMES as WORDS

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")


@dataclass(frozen=True)
class Turn:
    """A question of the user and the right answer."""

    question: str
    answer: str


Topic = tuple[Turn, ...]
"""A question and those that follow it up: they can be answered only by who read the first."""


def describe(random: Random) -> Topic:
    """Parts in any order become a sentence; then one part is changed."""
    sight = draw_sight(random)
    parts = [f"{sight.colour} {sight.outfit}", sight.item, sight.place, sight.time]
    random.shuffle(parts)
    turns = [Turn(f"Describe: {sight.name}, {', '.join(parts)}.", sight.sentence)]
    if random.random() < 0.4:
        part = random.choice(("colour", "item", "time"))
        values = {"colour": COLOURS, "item": ITEMS, "time": tuple(TIMES)}[part]
        value = another(values, getattr(sight, part), random)
        changed = replace(sight, **{part: value})
        turns.append(Turn(f"Now with {value}.", changed.sentence))
    return tuple(turns)


def parts(random: Random) -> Topic:
    """A sentence is taken apart."""
    sight = draw_sight(random)
    listed = (sight.name, sight.colour, sight.outfit, sight.item, sight.place, sight.time)
    return (Turn(f"Take apart: {sight.sentence}", f"Parts: {', '.join(listed)}."),)


def ask(random: Random) -> Topic:
    """Questions about a sentence."""
    sight = draw_sight(random)
    turns = [
        Turn(f"Where is {sight.name}?", f"{PLACES[sight.place].capitalize()}."),
        Turn("When is that?", f"{TIMES[sight.time].capitalize()}."),
        Turn(f"What does {sight.name} hold?", f"The {sight.item}."),
        Turn(f"Of which colour is the {sight.outfit}?", f"The {sight.outfit} is {sight.colour}."),
    ]
    chosen = random.sample(turns, random.choice((1, 1, 2, 3)))
    first = Turn(f"{sight.sentence} {chosen[0].question}", chosen[0].answer)
    return (first, *chosen[1:])


def count(random: Random) -> Topic:
    """How many things there are; then one is added."""
    number = random.randint(2, 6)
    things = ", ".join(random.choice(ITEMS) for _ in range(number))
    turns = [Turn(f"Count: {things}.", f"There are {NUMBERS[number - 1]}.")]
    if random.random() < 0.4:
        turns.append(Turn("And one more?", f"There are {NUMBERS[number]}."))
    return tuple(turns)


def sort(random: Random) -> Topic:
    """Things in the order of the alphabet."""
    things = random.sample(ITEMS, random.randint(3, 5))
    return (Turn(f"Sort: {', '.join(things)}.", f"Sorted: {', '.join(sorted(things))}."),)


def copy(random: Random) -> Topic:
    """Words again; then the other way round."""
    words = random.sample(WORDS, random.randint(3, 12))
    turns = [Turn(f"Repeat: {' '.join(words)}.", f"Again: {' '.join(words)}.")]
    if len(words) < 7 and random.random() < 0.4:
        turns.append(Turn("And backwards?", f"Backwards: {' '.join(words[::-1])}."))
    return tuple(turns)


def backwards(random: Random) -> Topic:
    """Words from the last to the first."""
    words = random.sample(WORDS, random.randint(3, 6))
    return (Turn(f"Reverse: {' '.join(words)}.", f"Backwards: {' '.join(words[::-1])}."),)


def say(random: Random) -> Topic:
    """A sentence is put into one of the tongues that the model knows."""
    sight, name = draw_sight(random), random.choice(list(TONGUES))
    return (Turn(asked(name, sight), said(sight, TONGUES[name])),)


TASKS: dict[str, Callable[[Random], Topic]] = {
    "describe": describe,
    "parts": parts,
    "ask": ask,
    "count": count,
    "sort": sort,
    "copy": copy,
    "backwards": backwards,
    "say": say,
}
"""Every task by its name."""
