import numpy as np
import pytest

from elf.errors import ElfError
from elf.taggers import Rules, Selector, StyleRules, TagList

NO_TRIGGER = {"trigger": ""}


def select(scores, rules=None, **categories):
    """Apply rules to tags given as {name: score}; categories other than general by name."""
    tags = TagList(list(scores), [categories.get(name, "general") for name in scores])
    rules = rules or Rules(**NO_TRIGGER)
    return Selector(tags, rules)(np.array(list(scores.values()), np.float32))


def test_base_threshold_is_inclusive_and_028():
    assert select({"a_tag": 0.28, "b_tag": 0.2799, "c_tag": 0.9}).tags == ["c tag", "a tag"]


def test_tags_are_ordered_by_score_and_ties_stay_in_the_lists_order():
    assert select({"aa": 0.5, "bb": 0.9, "cc": 0.5}).tags == ["bb", "aa", "cc"]


def test_noise_below_the_fourth_decimal_changes_nothing():
    first = select({"aa": 0.28 + 1e-6, "bb": 0.5 - 1e-6, "cc": 0.5 + 1e-6})
    second = select({"aa": 0.28 - 1e-6, "bb": 0.5 + 1e-6, "cc": 0.5 - 1e-6})
    assert first.tags == second.tags == ["bb", "cc", "aa"]


def test_trigger_is_forced_first_as_written():
    assert select({"long_hair": 0.9}, Rules()).tags == ["wood_elf", "long hair"]
    assert select({"long_hair": 0.1}, Rules()).tags == ["wood_elf"]


@pytest.mark.parametrize("keep", [True, False])
def test_trigger_is_not_written_twice(keep):
    rules = Rules(keep_underscores=keep)
    assert select({"wood_elf": 0.9, "elf": 0.8}, rules).tags == ["wood_elf", "elf"]


def test_cap_of_80_counts_the_trigger():
    scores = {f"tag {number}": 0.9 - number / 1000 for number in range(100)}
    selection = select(scores, Rules())
    assert len(selection.tags) == 80
    assert selection.tags[:2] == ["wood_elf", "tag 0"]
    assert selection.dropped["tag 79"] == "cap of 80 tags"


def test_a_cap_of_none_keeps_none():
    assert select({"aa": 0.9}, Rules(max_tags=0)).tags == []


def test_threshold_of_a_category():
    rules = Rules(**NO_TRIGGER, thresholds={"character": 0.6})
    selection = select({"aa": 0.5, "bb": 0.5, "cc": 0.7}, rules, bb="character", cc="character")
    assert selection.tags == ["cc", "aa"]
    assert selection.dropped == {"bb": "character: 0.5 is below 0.6"}


def test_characters_need_085_by_default():
    assert select({"aa": 0.84, "bb": 0.85}, aa="character", bb="character").tags == ["bb"]


def test_cap_of_a_category():
    scores = {f"c{number}": 0.95 for number in range(6)} | {"aa": 0.3}
    characters = {f"c{number}": "character" for number in range(6)}
    selection = select(scores, **characters)
    assert selection.tags == ["c0", "c1", "c2", "c3", "aa"]
    assert selection.dropped["c4"] == "cap of 4 character tags"


@pytest.mark.parametrize("name", ["anime_coloring", "cartoonized", "lineart", "comic", "4koma"])
def test_style_tags_lose_35_percent(name):
    assert select({name: 0.43, "aa": 0.29}).tags == ["aa"]
    selection = select({name: 0.45, "aa": 0.3})
    assert selection.tags == ["aa", name.replace("_", " ")]  # 0.2925 stands behind 0.3
    dropped = select({name: 0.43}).dropped[name]
    assert dropped == "style: 0.43 × 0.65 = 0.2795 is below 0.28"


@pytest.mark.parametrize("name", ["cartoon_bone", "no_lineart", "comic_book", "sketchbook"])
def test_exceptions_and_other_names_lose_nothing(name):
    assert select({name: 0.28}).tags == [name.replace("_", " ")]


def test_style_threshold():
    rules = Rules(**NO_TRIGGER, style=StyleRules(threshold=0.4))
    assert select({"comic": 0.6, "lineart": 0.63}, rules).tags == ["lineart"]


def test_at_most_five_style_tags():
    scores = {f"anime {number}": 0.9 for number in range(7)} | {"aa": 0.3}
    selection = select(scores)
    assert selection.tags == [*(f"anime {number}" for number in range(5)), "aa"]
    assert selection.dropped["anime 5"] == "cap of 5 style tags"


def test_rating_is_the_most_probable_and_no_tag():
    ratings = {"general": "rating", "explicit": "rating"}
    selection = select({"general": 0.3, "explicit": 0.6, "aa": 0.5}, **ratings)
    assert selection.rating == "explicit" and selection.tags == ["aa"]
    assert select({"aa": 0.5}).rating == ""


def test_two_tags_that_are_written_alike_are_written_once():
    selection = select({"long_hair": 0.9, "long hair": 0.8})
    assert selection.tags == ["long hair"] and selection.dropped == {"long hair": "written already"}


def test_what_was_never_near_is_not_explained():
    assert select({"aa": 0.27, "comic": 0.2}).dropped == {}


def test_parentheses_and_underscores_by_option():
    rules = Rules(**NO_TRIGGER, escape_parentheses=True, keep_underscores=True)
    assert select({"miku_(vocaloid)": 0.9}, rules).tags == [r"miku_\(vocaloid\)"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 28.0}, r"rules.threshold: 28.0 is not between 0 and 1"),
        ({"thresholds": {"general": -1.0}}, r"rules.thresholds.general: -1.0 is not between"),
        ({"style": StyleRules(weight=1.5)}, r"rules.style.weight: 1.5 is not between"),
        ({"max_tags": -1}, r"rules.max_tags: -1 is negative; 0 keeps none"),
        ({"max_per_category": {"character": -2}}, r"max_per_category.character: -2 is negative"),
        (
            {"thresholds": {"charcter": 1.0}},
            r"rules.thresholds: no category 'charcter'; there",
        ),
        ({"max_per_category": {"x": 1}}, r"rules.max_per_category: no category 'x'; there are"),
        ({"trigger": "wood, elf"}, r"rules.trigger: 'wood, elf' must be one tag"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ElfError, match=message):
        Rules(**settings)
