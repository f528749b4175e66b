"""The trigger word in texts."""

import pytest

from elf.preparation.trigger import has_trigger, without_trigger


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("wood_elf, forest", "forest"),
        ("forest,  wood_elf,night", "forest, night"),
        ("wood_elf", ""),
        ("a painting of wood_elf in a forest", "a painting of in a forest"),
        ("wood_elf's cloak, wood_elf", "'s cloak"),
        ("wood_elf_queen, wood_elfish,  a  b", "wood_elf_queen, wood_elfish,  a  b"),
        ("", ""),
    ],
)
def test_only_the_trigger_as_a_word_of_its_own_goes(text: str, plain: str) -> None:
    assert without_trigger(text, "wood_elf") == plain
    assert has_trigger(text, "wood_elf") is (text != plain)


def test_a_trigger_may_hold_what_means_something_in_patterns() -> None:
    assert without_trigger("(elf) [v2], forest", "(elf) [v2]") == "forest"
    assert not has_trigger("elf v, forest", "(elf) [v2]")
