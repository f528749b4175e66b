import numpy as np
import pytest

from elf.errors import ElfError
from elf.taggers import (
    NoiseRules,
    Rules,
    Selector,
    StyleRules,
    TagList,
    Vocabulary,
    WeightRule,
)
from elf.taggers.outputs import to_units
from elf.taggers.scores import Scores
from elf.taggers.select import mcut

NO_TRIGGER = {"trigger": ""}


def select(scores, rules=None, caption=None, **categories):
    """Apply rules to tags given as {name: score}; categories other than general by name."""
    tags = TagList(list(scores), [categories.get(name, "general") for name in scores])
    rules = rules or Rules(**NO_TRIGGER)
    units = to_units(np.array(list(scores.values()), np.float32))
    return Selector(tags, rules)(Scores.of(units), caption)


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
        ({"append": ("a,b",)}, r"rules.append: 'a,b' must be one tag, without commas"),
        ({"replace": {"x": "a\nb"}}, r"rules.replace.x: 'a\\nb' must be one tag"),
        ({"caption_tags": {"w": "a,b"}}, r"rules.caption_tags.w: 'a,b' must be one tag"),
        ({"mcut": ("genral",)}, r"rules.mcut: no category 'genral'; there are"),
        ({"mcut_floor": 2.0}, r"rules.mcut_floor: 2.0 is not between 0 and 1"),
        ({"noise": NoiseRules(threshold=3.0)}, r"rules.noise.threshold: 3.0 is not between"),
        ({"weights": {"w": WeightRule(("a",), 2.0)}}, r"rules.weights.w.weight: 2.0 is not betw"),
        (
            {"vocabularies": {"v": Vocabulary(("a",), 2.0)}},
            r"rules.vocabularies.v.shift: 2.0 is not between -1 and 1",
        ),
        ({"max_caption_tags": -1}, r"rules.max_caption_tags: -1 is negative; 0 keeps none"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ElfError, match=message):
        Rules(**settings)


def test_style_has_exceptions_and_a_cap_of_its_own():
    style = StyleRules(tags=("*_(style)",), exceptions=("good_(style)",), max_tags=1)
    scores = {"a_(style)": 0.9, "good_(style)": 0.9, "b_(style)": 0.8}
    selection = select(scores, Rules(**NO_TRIGGER, style=style))
    assert selection.tags == ["good (style)", "a (style)"]
    assert selection.dropped == {"b_(style)": "cap of 1 style tags"}


def test_weights():
    rules = Rules(
        **NO_TRIGGER, weights={"hair": WeightRule(("*_hair",), 0.5, exceptions=("wild_hair",))}
    )
    selection = select({"long_hair": 0.5, "wild_hair": 0.5, "short_hair": 0.6}, rules)
    assert selection.tags == ["wild hair", "short hair"]
    assert selection.dropped == {"long_hair": "hair: 0.5 × 0.5 = 0.25 is below 0.28"}
    assert selection.scores == {"wild hair": 0.5, "short hair": 0.6}


def test_weights_multiply():
    rules = Rules(**NO_TRIGGER, weights={"less": WeightRule(("comic",), 0.5)})
    dropped = select({"comic": 0.8}, rules).dropped["comic"]
    assert dropped == "style less: 0.8 × 0.325 = 0.26 is below 0.28"


@pytest.mark.parametrize("name", ["blush", "speech_bubble", "spoken_heart", "^_^", "signature"])
def test_noise_needs_a_surer_score(name):
    assert select({name: 0.49}).dropped == {name: "general, noise: 0.49 is below 0.5"}
    assert len(select({name: 0.5}).tags) == 1


def test_noise_never_lowers_a_cutoff_and_has_exceptions():
    rules = Rules(
        **NO_TRIGGER, thresholds={"character": 0.9},
        noise=NoiseRules(("a*",), exceptions=("ab",), threshold=0.5),
    )  # fmt: skip
    selection = select({"aa": 0.6, "ab": 0.3, "ac": 0.4}, rules, aa="character")
    assert selection.tags == ["ab"]


@pytest.mark.parametrize(
    ("name", "cutoff"),
    [("forest", 0.22), ("moss", 0.22), ("magic_circle", 0.23), ("pointy_ears", 0.23),
     ("cloak", 0.23), ("realistic", 0.2), ("depth_of_field", 0.2)],
)  # fmt: skip
def test_vocabularies_lower_the_cutoff(name, cutoff):
    assert select({name: cutoff}).tags == [name.replace("_", " ")]
    assert select({name: cutoff - 0.01}).tags == []


def test_vocabularies_lift_the_cutoff_and_have_exceptions():
    rules = Rules(
        **NO_TRIGGER, vocabularies={"city": Vocabulary(("*city*",), 0.2, exceptions=("city_elf",))}
    )
    selection = select({"city": 0.4, "city_elf": 0.4, "city_lights": 0.48}, rules)
    assert selection.tags == ["city lights", "city elf"]
    assert selection.dropped == {"city": "general, city +0.2: 0.4 is below 0.48"}


def test_mcut():
    assert mcut(np.array([0.9, 0.2, 0.8, 0.1])) == pytest.approx(0.5)
    assert mcut(np.array([0.9])) == 0
    rules = Rules(**NO_TRIGGER, mcut=("general",))
    selection = select({"aa": 0.9, "bb": 0.8, "cc": 0.35, "dd": 0.3}, rules)
    assert selection.tags == ["aa", "bb"]
    assert selection.dropped["cc"] == "general, mcut: 0.35 is below 0.575"


def test_mcut_ends_at_its_floor_and_leaves_other_categories():
    rules = Rules(**NO_TRIGGER, mcut=("general",), vocabularies={})
    selection = select({"aa": 0.16, "bb": 0.01, "cc": 0.5}, rules, cc="character")
    assert selection.tags == ["aa"]


def test_replace_in_order():
    rules = Rules(
        **NO_TRIGGER, replace={"1girl": "woman", "woman": "young woman", "very long hair": "mane"}
    )
    selection = select({"1girl": 0.9, "very_long_hair": 0.8, "solo": 0.7}, rules)
    assert selection.tags == ["young woman", "mane", "solo"]
    assert selection.notes["young woman"] == [
        "replace 1girl by woman", "replace woman by young woman"
    ]  # fmt: skip
    assert selection.sources["young woman"] == "1girl"


def test_replaced_tags_that_meet_are_written_once():
    rules = Rules(**NO_TRIGGER, replace={"*_hair": "hair"})
    selection = select({"long_hair": 0.9, "red_hair": 0.8}, rules)
    assert selection.tags == ["hair"] and selection.dropped == {"red_hair": "written already"}


def test_remove():
    rules = Rules(**NO_TRIGGER, remove=("solo", "*_background"), replace={"alone": "solo"})
    selection = select({"solo": 0.9, "alone": 0.9, "red_background": 0.9, "elf": 0.5}, rules)
    assert selection.tags == ["elf"]
    assert selection.dropped == dict.fromkeys(("solo", "alone", "red_background"), "remove")


def test_first():
    rules = Rules(first=("elf", "missing", "*_ears"))
    scores = {"long_hair": 0.9, "cat_ears": 0.8, "elf": 0.5, "pointy_ears": 0.4}
    selection = select(scores, rules)
    assert selection.tags == ["wood_elf", "elf", "cat ears", "pointy ears", "long hair"]
    assert selection.notes["elf"] == ["first"]


def test_append_counts_in_the_cap():
    rules = Rules(append=("high detail",), max_tags=3)
    scores = {"aa": 0.9, "bb": 0.8}
    assert select(scores, rules).tags == ["wood_elf", "aa", "high detail"]
    assert select(scores, rules).dropped == {"bb": "cap of 3 tags"}


CAPTION = "A woman among mossy redwoods and ferns, no fog, without a cloak, by a creek."


def test_tags_from_the_caption():
    selection = select({"fern": 0.9, "forest": 0.1}, caption=CAPTION)
    assert selection.tags == ["fern", "moss", "redwood tree", "stream"]
    assert selection.notes["moss"] == ["the caption says 'mossy'"]
    assert "moss" not in selection.scores
    assert select({"fern": 0.9}, caption=None).tags == ["fern"]


def test_words_of_the_caption_are_whole_words():
    rules = Rules(**NO_TRIGGER, caption_tags={"elf": "elf", "red hair": "red_hair"})
    assert select({"aa": 0.1}, rules, "Herself on a shelf, a self-made elf-like thing").tags == []
    assert select({"aa": 0.1}, rules, "An ELF with Red hair.").tags == ["elf", "red hair"]


def test_at_most_so_many_tags_from_the_caption_within_the_cap():
    words = {f"w{number}": f"t{number}" for number in range(9)}
    text = " ".join(words)
    rules = Rules(**NO_TRIGGER, caption_tags=words, max_caption_tags=2, max_tags=3)
    assert select({"aa": 0.9, "bb": 0.8}, rules, text).tags == ["aa", "t0", "t1"]
    rules = Rules(**NO_TRIGGER, caption_tags=words, max_caption_tags=0)
    assert select({"aa": 0.9}, rules, text).tags == ["aa"]


def test_names_in_the_rules_that_fit_no_tag_are_told():
    tags = TagList(["1girl", "long_hair", "woman"], ["general"] * 3)
    rules = Rules(
        replace={"1grl": "x", "long hair": "mane", "mane": "y"}, remove=("z*", "woman"),
        weights={"w": WeightRule(("nope",), 0.5)}, first=("1girl",),
    )  # fmt: skip
    assert Selector(tags, rules).unmatched() == [
        "rules.replace: the tagger has no tag '1grl'; did you mean '1girl'?",
        "rules.remove: the tagger has no tag 'z*'",
        "rules.weights.w: the tagger has no tag 'nope'",
    ]
    assert Selector(tags, Rules()).unmatched() == []


def test_escaped_names_fit_in_rules():
    rules = Rules(**NO_TRIGGER, escape_parentheses=True, remove=(r"miku \(vocaloid\)",))
    selection = select({"miku_(vocaloid)": 0.9, "bow_(weapon)": 0.8}, rules)
    assert selection.tags == [r"bow \(weapon\)"]


def test_the_version_is_that_of_the_values():
    tags = TagList(["aa"], ["general"])
    assert Selector(tags, Rules()).version == Selector(tags, Rules()).version
    assert Selector(tags, Rules()).version != Selector(tags, Rules(threshold=0.3)).version


def test_what_decides_over_a_tag_is_told():
    tags = TagList(["comic", "moss", "blush", "aa"], ["general"] * 4)
    selector = Selector(tags, Rules())
    assert selector.why("comic") == "style × 0.65, general, cutoff 0.28"
    assert selector.why("moss") == "general, cutoff 0.22 (forest -0.06)"
    assert selector.why("blush") == "general, cutoff 0.5 (noise)"
    assert selector.why("aa") == "general, cutoff 0.28"


@pytest.mark.parametrize("mcut_of", [(), ("general",), ("general", "character")])
def test_tags_too_weak_to_be_looked_at_would_have_changed_nothing(mcut_of):
    kinds = ["rating"] * 4 + ["general"] * 300 + ["character"] * 60
    tags = TagList([f"tag{number}" for number in range(len(kinds))], kinds)
    rules = Rules(
        mcut=mcut_of,
        weights={
            "half": WeightRule(tuple(f"tag{number}" for number in range(10, 90)), 0.5),
            "tiny": WeightRule(("tag7*",), 0.0001),
            "none": WeightRule(("tag20",), 0.0),
        },
        vocabularies={
            "sooner": Vocabulary(("tag1*",), -1.0),
            "later": Vocabulary(("tag3*",), 0.4),
        },
    )
    quick, thorough = Selector(tags, rules), Selector(tags, rules)
    thorough._least, thorough._lowest = np.zeros_like(thorough._least), 0
    draw = np.random.default_rng(0)
    edges = np.array([0, 1, 2, 1499, 1500, 2799, 2800, 2801, 5599, 5600, 5601, 8499, 8500, 10_000])
    for number in range(200):
        units = draw.integers(0, 10_001, len(tags))
        if number % 2:
            units = draw.choice(edges, len(tags))
        scores = Scores.of(units.astype(np.uint16))
        assert quick(scores) == thorough(scores)
