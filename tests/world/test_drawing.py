import numpy as np
import pytest

from elf.world import draw, sample_scene
from elf.world.scene import STYLES


def test_the_same_scene_gives_the_same_pixels() -> None:
    scene = sample_scene((8, 1))
    assert draw(scene).tobytes() == draw(scene).tobytes()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (48, 64), (64, 48), (256, 256)])
def test_a_picture_has_the_size_that_was_asked_for(width: int, height: int) -> None:
    picture = draw(sample_scene((8, 2)), width, height)
    assert (picture.size, picture.mode) == ((width, height), "RGB")


def test_a_larger_picture_shows_the_same_drawing() -> None:
    scene = sample_scene((8, 3))
    small, large = draw(scene), draw(scene, 256, 256).resize((64, 64), 4)
    assert np.abs(np.asarray(small, int) - np.asarray(large, int)).mean() < 6


@pytest.mark.parametrize("style", STYLES)
def test_every_attribute_shows(style: str) -> None:
    # Changing one attribute and nothing else must change the pixels.
    scene = sample_scene((8, 4), style=style, headwear="none", item="none", ears="round")
    changes = {
        "hair": "blue" if scene.hair != "blue" else "red",
        "skin": "dark" if scene.skin != "dark" else "pale",
        "ears": "pointed",
        "headwear": "leaf crown",
        "item": "lantern",
        "outfit": "cloak" if scene.outfit != "cloak" else "armor",
        "colour": "green" if scene.colour != "green" else "red",
        "figure": "girl" if scene.figure == "boy" else "boy",
    }
    before = np.asarray(draw(scene), int)
    for name, value in changes.items():
        after = np.asarray(draw(type(scene)(**(vars(scene) | {name: value}))), int)
        changed = (np.abs(after - before).max(2) > 12).sum()
        assert changed > 25, f"{name}={value} changes {changed} px only"


def test_a_leaf_crown_adds_green_above_the_face() -> None:
    # A second check of the concept's own part, by pixels where the place is known.
    for number in range(20):
        scene = sample_scene((8, 5, number), style="anime", background="plain", time="day")
        plain = type(scene)(**(vars(scene) | {"headwear": "none"}))
        crowned = type(scene)(**(vars(scene) | {"headwear": "leaf crown"}))
        assert green_above_the_face(crowned) > 60 > 20 > green_above_the_face(plain)


def green_above_the_face(scene: object) -> int:
    red, green, blue = np.asarray(draw(scene), int)[5:24].transpose(2, 0, 1)  # type: ignore[arg-type]
    return int(((green > red + 25) & (green > blue + 35)).sum())
