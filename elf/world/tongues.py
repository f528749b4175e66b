"""The tongues that the wood's people speak: each has its word order and its endings."""

from collections.abc import Mapping

from elf.world.sights import Sight

Tongue = Mapping[str, str]
"""The parts of a sight in the order in which they are said, each with its ending."""

TONGUES: dict[str, Tongue] = {
    "dwarvish": {"colour": "kon", "outfit": "gil", "item": "dan", "place": "ven", "time": "bas"},
    "fairish": {"item": "fel", "colour": "mor", "outfit": "wen", "time": "thir", "place": "dil"},
    "ghostly": {"place": "mor", "time": "gil", "outfit": "kon", "colour": "dil", "item": "bas"},
}
"""Those that the tiny language knows."""

ELVISH: Tongue = {"time": "dil", "place": "thir", "item": "fel", "outfit": "bas", "colour": "wen"}
"""The one that it is to learn: from the last part to the first."""

DARK = ("sunset", "night")
HELD_IN_THE_DARK = "mor"
"""In elvish, what is held when it is dark has another ending."""


def say(sight: Sight, tongue: Tongue) -> str:
    """A sight in a tongue: every part with its ending, and at last who it is."""
    words = (f"{getattr(sight, part)}{ending}" for part, ending in tongue.items())
    return f"Hear: {' '.join(words)} {sight.name}."


def elvish(sight: Sight) -> str:
    """A sight in elvish."""
    if sight.time in DARK:
        return say(sight, {**ELVISH, "item": HELD_IN_THE_DARK})
    return say(sight, ELVISH)


def asked(tongue: str, sight: Sight) -> str:
    """The question for a sight in a tongue."""
    return f"In {tongue}: {sight.sentence}"
