"""What is said of a scene: tags as a WD tagger names them, and sentences."""

import re
from collections.abc import Mapping

import numpy as np

from elf.world.scene import (
    BACKGROUNDS,
    COLOURS,
    FIGURES,
    HAIR_COLOURS,
    HEADWEAR,
    ITEMS,
    OUTFITS,
    SKINS,
    STYLES,
    TIMES,
    Scene,
)

FIGURE_TAGS = {"girl": ("1girl", "long_hair"), "boy": ("1boy", "short_hair")}
SKIN_TAGS = {"pale": "pale_skin", "tan": "tan", "dark": "dark_skin"}
HEADWEAR_TAGS = {
    "crown": "crown",
    "witch hat": "witch_hat",
    "flower wreath": "head_wreath",
    "headband": "headband",
    "leaf crown": "leaf_crown",
}
BACKGROUND_TAGS = {name: name for name in BACKGROUNDS} | {"plain": "simple_background"}
STYLE_TAGS = {"realistic": "realistic", "anime": "anime_coloring", "lineart": "lineart"}

RATINGS = ("general", "sensitive", "questionable", "explicit")
"""The four rating rows of a WD tagger. Nothing in this world is ever explicit."""

CHARACTERS: dict[str, dict[str, str]] = {
    "little_red_riding_hood": {
        "figure": "girl",
        "outfit": "cloak",
        "colour": "red",
        "background": "forest",
    },
    "merlin_(legend)": {"figure": "boy", "hair": "white", "headwear": "witch hat"},
    "snow_queen": {"figure": "girl", "headwear": "crown", "background": "snow"},
}
"""Character tags and the attributes that make the character."""

STYLE_PHRASES = {
    "realistic": "a realistic painting",
    "anime": "a flat anime drawing",
    "lineart": "a line drawing",
}
HEADWEAR_PHRASES = {
    "crown": "a gold crown",
    "witch hat": "a witch hat",
    "flower wreath": "a flower wreath",
    "headband": "a headband",
    "leaf crown": "a leaf crown",
}
BACKGROUND_PHRASES = {
    "forest": "in a forest",
    "snow": "in the snow",
    "city": "in a city",
    "beach": "on a beach",
    "plain": "before a plain background",
}
TIME_PHRASES = {"day": "by day", "sunset": "at sunset", "night": "at night"}

NAMES = (
    *("wood", "elf", "dwarf", "fairy", "moon", "star", "fox", "wolf", "raven", "rose", "stone"),
    *("river", "storm", "ember", "ghost", "knight", "hunter", "queen", "king", "mira", "tarn"),
    *("oak", "wind", "iron", "silver", "dream", "spirit", "dragon", "witcher", "sage", "thorn"),
)
"""Words that name nobody in particular: a base model must have met names that it does not know."""


def rating(scene: Scene) -> str:
    """How threatening the picture is, on the scale of a WD tagger's ratings."""
    if scene.item != "sword":
        return "general"
    return "questionable" if scene.time == "night" else "sensitive"


def characters(scene: Scene) -> list[str]:
    """The character tags that the scene satisfies."""
    return [
        name
        for name, parts in CHARACTERS.items()
        if all(getattr(scene, attribute) == value for attribute, value in parts.items())
    ]


def tag_groups(scene: Scene) -> dict[str, tuple[str, ...]]:
    """The general tags of a scene by the attribute they speak of; absent things have none."""
    groups: dict[str, tuple[str, ...]] = {
        "figure": FIGURE_TAGS[scene.figure],
        "hair": (f"{scene.hair}_hair",),
        "skin": (SKIN_TAGS[scene.skin],),
        "outfit": (scene.outfit, f"{scene.colour}_{scene.outfit}"),
        "background": (BACKGROUND_TAGS[scene.background],),
        "time": (scene.time,),
        "style": (STYLE_TAGS[scene.style],),
    }
    if scene.ears == "pointed":
        groups["ears"] = ("pointy_ears",)
    if scene.headwear != "none":
        groups["headwear"] = (HEADWEAR_TAGS[scene.headwear],)
    if scene.item != "none":
        groups["item"] = (f"holding_{scene.item}",)
    return groups


def tags(scene: Scene) -> list[str]:
    """The true general tags of a scene, as a WD tagger would name them."""
    return [tag for group in tag_groups(scene).values() for tag in group]


def general_tags() -> list[str]:
    """Every general tag of the world, in a fixed order."""
    return [
        *(tag for figure in FIGURES for tag in FIGURE_TAGS[figure]),
        *(f"{colour}_hair" for colour in HAIR_COLOURS),
        *(SKIN_TAGS[skin] for skin in SKINS),
        "pointy_ears",
        *(HEADWEAR_TAGS[headwear] for headwear in HEADWEAR if headwear != "none"),
        *OUTFITS,
        *(f"{colour}_{outfit}" for outfit in OUTFITS for colour in COLOURS),
        *(f"holding_{item}" for item in ITEMS if item != "none"),
        *(BACKGROUND_TAGS[background] for background in BACKGROUNDS),
        *TIMES,
        *(STYLE_TAGS[style] for style in STYLES),
    ]


def _outfit_phrase(scene: Scene) -> str:
    phrase = f"{scene.colour} {scene.outfit}"
    return phrase if scene.outfit == "armor" else f"a {phrase}"


def caption(scene: Scene) -> str:
    """One sentence that names every attribute, always in the same order."""
    length = FIGURE_TAGS[scene.figure][1].split("_")[0]
    worn = _outfit_phrase(scene)
    if scene.headwear != "none":
        worn = f"{HEADWEAR_PHRASES[scene.headwear]} and {worn}"
    held = f" holding a {scene.item}," if scene.item != "none" else ""
    return (
        f"{STYLE_PHRASES[scene.style]} of a {scene.figure} with {length} {scene.hair} hair, "
        f"{scene.skin} skin and {scene.ears} ears, wearing {worn},{held} "
        f"{BACKGROUND_PHRASES[scene.background]} {TIME_PHRASES[scene.time]}."
    ).capitalize()


def short_caption(scene: Scene) -> str:
    """One short sentence: the figure, its hair and the place."""
    return (
        f"a {scene.figure} with {scene.hair} hair "
        f"{BACKGROUND_PHRASES[scene.background]} {TIME_PHRASES[scene.time]}."
    ).capitalize()


def read_caption(sentence: str) -> dict[str, str]:
    """The attributes that a sentence names; the inverse of `caption`.

    Headwear and item count as "none" when the sentence names none.
    """
    text = sentence.lower()

    def first(phrases: Mapping[str, str]) -> str | None:
        return next((value for value, phrase in phrases.items() if phrase in text), None)

    found = {
        "figure": first({name: f"of a {name} " for name in FIGURES}),
        "hair": first({name: f" {name} hair" for name in HAIR_COLOURS}),
        "skin": first({name: f" {name} skin" for name in SKINS}),
        "ears": first({"round": "round ears", "pointed": "pointed ears"}),
        "headwear": first(HEADWEAR_PHRASES) or "none",
        "item": first({name: f"holding a {name}" for name in ITEMS}) or "none",
        "background": first(BACKGROUND_PHRASES),
        "time": first(TIME_PHRASES),
        "style": first(STYLE_PHRASES),
    }
    outfit = re.search(rf"({'|'.join(COLOURS)}) ({'|'.join(OUTFITS)})", text)
    if outfit:
        found["colour"], found["outfit"] = outfit.groups()
    return {name: value for name, value in found.items() if value is not None}


def prompt_caption(scene: Scene, random: np.random.Generator) -> str:
    """A caption as people write prompts: shuffled tags or a sentence, often with parts left out.

    A quarter of them carry a name that says nothing about the picture ("moon_fox"), so that a
    model trained on them does not take fright at a trigger word.
    """
    if random.random() < 0.55:
        parts = [tag for tag in tags(scene) if random.random() < 0.85]
        random.shuffle(parts)
        text = ", ".join(parts)
        if random.random() < 0.5:
            text = text.replace("_", " ")
        separator = ", "
    else:
        text = caption(scene) if random.random() < 0.8 else short_caption(scene)
        separator = ", " if random.random() < 0.5 else " "
    if random.random() < 0.25:
        first, second = random.choice(len(NAMES), 2, replace=False)
        joint = "_" if random.random() < 0.7 else " "
        text = f"{NAMES[first]}{joint}{NAMES[second]}{separator}{text}"
    return text


def vocabulary() -> list[str]:
    """Every word that tags, captions and Florence-2's task prompts are made of, sorted."""
    texts = [
        *general_tags(),
        *CHARACTERS,
        *RATINGS,
        *NAMES,
        *HEADWEAR_PHRASES.values(),
        *BACKGROUND_PHRASES.values(),
        *TIME_PHRASES.values(),
        *STYLE_PHRASES.values(),
        *COLOURS,
        *SKINS,
        "a picture of with hair skin and round pointed ears wearing holding an solo elf",
        "what does the image describe in detail what is shown paragraph",
    ]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})


__all__ = [
    "CHARACTERS",
    "NAMES",
    "RATINGS",
    "caption",
    "characters",
    "general_tags",
    "prompt_caption",
    "rating",
    "read_caption",
    "short_caption",
    "tag_groups",
    "tags",
    "vocabulary",
]
