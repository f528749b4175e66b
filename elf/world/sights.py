"""What is told of the world in sentences: who stands where and when, in what, with what in hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import TypeVar

from elf.world.scene import COLOURS, OUTFITS
from elf.world.words import BACKGROUND_PHRASES, TIME_PHRASES

BEGINNINGS = ("Eru", "Meka", "Tavi", "Galo", "Nifu", "Feba", "Celu", "Lumi", "Oru", "Syra")
ENDINGS = ("wen", "dil", "mor", "thir", "dan", "ven", "gil", "bas", "fel", "kon")
NAMES = tuple(first + last for first, last in product(BEGINNINGS, ENDINGS))
"""Of the wood's people, made of two syllables each."""

ITEMS = ("sword", "staff", "book", "lantern", "ring", "flute", "map", "cup")
PLACES = {name: phrase for name, phrase in BACKGROUND_PHRASES.items() if name != "plain"} | {
    "cave": "in a cave",
    "river": "by the river",
    "hill": "on a hill",
    "oak": "under an oak",
}
TIMES = {"dawn": "at dawn"} | TIME_PHRASES
"""Places and times of day with the phrase that says them."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Sight:
    """What a sentence tells: a name, an outfit and its colour, an item, a place and a time."""

    name: str
    colour: str
    outfit: str
    item: str
    place: str
    time: str

    @property
    def sentence(self) -> str:
        """The whole sight in English."""
        return (
            f"{self.name} in the {self.colour} {self.outfit} holds the {self.item} "
            f"{PLACES[self.place]} {TIMES[self.time]}."
        )


def draw_sight(random: Random) -> Sight:
    """One of 614,400 sights by lot."""
    return Sight(
        name=random.choice(NAMES),
        colour=random.choice(COLOURS),
        outfit=random.choice(OUTFITS),
        item=random.choice(ITEMS),
        place=random.choice(list(PLACES)),
        time=random.choice(list(TIMES)),
    )


def another(values: Sequence[Value], than: Value, random: Random) -> Value:
    """A value by lot that is another one than the given."""
    return random.choice([value for value in values if value != than])
