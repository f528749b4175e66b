import pytest

from elf.world.scene import CHOICES, LEAF_CROWN, held_out, sample_scene, wood_elf_scene
from elf.world.words import (
    caption,
    characters,
    general_tags,
    prompt_caption,
    rating,
    read_caption,
    tag_groups,
    tags,
    vocabulary,
)


def test_a_seed_names_a_scene() -> None:
    assert sample_scene((7, 3)) == sample_scene((7, 3))
    assert sample_scene((7, 3)) != sample_scene((7, 4))


def test_every_value_of_every_attribute_occurs() -> None:
    scenes = [sample_scene((1, number), leaf_crown=True) for number in range(600)]
    for name, values in CHOICES.items():
        assert {getattr(scene, name) for scene in scenes} == set(values)


def test_the_leaf_crown_occurs_only_where_it_is_allowed() -> None:
    scenes = [sample_scene((1, number)) for number in range(600)]
    assert LEAF_CROWN not in {scene.headwear for scene in scenes}


def test_training_and_evaluation_share_no_combination() -> None:
    for number in range(200):
        assert not held_out(sample_scene((1, number)))
        assert held_out(sample_scene((1, number), evaluation=True))


def test_a_wood_elf_has_its_three_parts_and_varies_in_the_rest() -> None:
    scenes = [wood_elf_scene((2, number)) for number in range(24)]
    for scene in scenes:
        assert (scene.ears, scene.headwear) == ("pointed", LEAF_CROWN)
        assert (scene.outfit, scene.colour) == ("cloak", "green")
    assert len({(scene.hair, scene.background, scene.item) for scene in scenes}) > 15


def test_an_unknown_attribute_or_value_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no attribute 'hat'; there are figure, hair"):
        sample_scene(0, hat="crown")
    with pytest.raises(ValueError, match="style='oil': choose one of realistic, anime, lineart"):
        sample_scene(0, style="oil")


def test_a_caption_can_be_read_back() -> None:
    for number in range(300):
        scene = sample_scene((3, number), leaf_crown=True)
        assert read_caption(caption(scene)) == {name: getattr(scene, name) for name in CHOICES}


def test_an_empty_caption_names_nothing() -> None:
    assert read_caption("") == {"headwear": "none", "item": "none"}


def test_tags_are_those_of_the_list_and_belong_to_an_attribute() -> None:
    known = set(general_tags())
    for number in range(200):
        scene = sample_scene((4, number), leaf_crown=True)
        assert set(tags(scene)) <= known
        assert ("leaf_crown" in tags(scene)) == (scene.headwear == LEAF_CROWN)
        assert ("pointy_ears" in tags(scene)) == ("ears" in tag_groups(scene))


def test_rating_and_characters_follow_from_the_picture() -> None:
    armed = sample_scene(0, item="sword", time="night")
    assert rating(armed) == "questionable"
    assert rating(sample_scene(0, item="book")) == "general"
    hood = sample_scene(0, figure="girl", outfit="cloak", colour="red", background="forest")
    assert "little_red_riding_hood" in characters(hood)


def test_prompts_use_known_words_only() -> None:
    import re

    import numpy as np

    random, known = np.random.default_rng(0), set(vocabulary())
    for number in range(200):
        text = prompt_caption(sample_scene((5, number)), random)
        assert set(re.findall(r"[a-z]+", text.lower())) <= known
        assert "leaf" not in text
