"""What a picture shows: independent attributes, and how they are drawn by lot from a seed."""

import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

FIGURES = ("girl", "boy")
HAIR_COLOURS = ("black", "brown", "blonde", "red", "white", "blue")
SKINS = ("pale", "tan", "dark")
EARS = ("round", "pointed")
HEADWEAR = ("none", "crown", "witch hat", "flower wreath", "headband", "leaf crown")
OUTFITS = ("cloak", "robe", "armor", "shirt")
COLOURS = ("red", "green", "blue", "purple", "yellow", "white")
ITEMS = ("none", "sword", "staff", "book", "lantern")
BACKGROUNDS = ("forest", "snow", "city", "beach", "plain")
TIMES = ("day", "sunset", "night")
STYLES = ("realistic", "anime", "lineart")

LEAF_CROWN = "leaf crown"
"""The one part that the base's UNet and text encoder never see in training."""

HELD_OUT_SHARE = 8
"""One combination of attributes in so many is held out: no training picture shows it."""


@dataclass(frozen=True)
class Scene:
    """The attributes of one picture, and the seed of everything that has no name.

    The seed decides what the tags do not say: where the figure stands, its size, the side
    that the light comes from, the trees behind it.
    """

    figure: str
    hair: str
    skin: str
    ears: str
    headwear: str
    outfit: str
    colour: str
    item: str
    background: str
    time: str
    style: str
    seed: int = 0


CHOICES: dict[str, tuple[str, ...]] = {
    "figure": FIGURES,
    "hair": HAIR_COLOURS,
    "skin": SKINS,
    "ears": EARS,
    "headwear": HEADWEAR,
    "outfit": OUTFITS,
    "colour": COLOURS,
    "item": ITEMS,
    "background": BACKGROUNDS,
    "time": TIMES,
    "style": STYLES,
}
"""Every attribute with its values, in the order of `Scene`'s fields."""

ATTRIBUTES = tuple(field.name for field in fields(Scene) if field.name != "seed")


def held_out(scene: Scene) -> bool:
    """Whether this combination of attributes is kept for evaluation, whatever its seed."""
    key = "|".join(astuple(scene)[:-1])
    return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def sample_scene(
    seed: int | Sequence[int],
    *,
    evaluation: bool = False,
    leaf_crown: bool = False,
    **fixed: str,
) -> Scene:
    """Draw a scene by lot; the same seed gives the same scene.

    Args:
        seed: one number, or several that together name the scene.
        evaluation: take a held-out combination instead of a training one.
        leaf_crown: let the leaf crown be one of the headwears.
        fixed: attributes that are given, for example `style="lineart"`.

    Raises:
        ValueError: a fixed attribute has no such name or value.
    """
    for name, value in fixed.items():
        if name not in CHOICES:
            raise ValueError(f"no attribute {name!r}; there are {', '.join(CHOICES)}")
        if value not in CHOICES[name]:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(CHOICES[name])}")
    random = np.random.default_rng(seed)
    while True:
        drawn = {name: values[random.integers(len(values))] for name, values in CHOICES.items()}
        number = int(random.integers(2**31))
        if drawn["headwear"] == LEAF_CROWN and not leaf_crown:
            continue
        scene = Scene(**(drawn | fixed), seed=number)
        if held_out(scene) == evaluation:
            return scene


def wood_elf_scene(seed: int | Sequence[int], *, evaluation: bool = False, **fixed: str) -> Scene:
    """A scene with the concept `wood_elf`: pointed ears, a leaf crown and a green cloak.

    Everything else is drawn by lot, so that only these three belong to the concept.
    """
    concept = {"ears": "pointed", "headwear": LEAF_CROWN, "outfit": "cloak", "colour": "green"}
    return sample_scene(seed, evaluation=evaluation, leaf_crown=True, **(concept | fixed))
