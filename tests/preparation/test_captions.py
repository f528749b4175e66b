import itertools
from collections import Counter

import numpy as np
import pytest

from elf.draws import draw_seed, id_words
from elf.preparation.captionoptions import CaptionOptions
from elf.preparation.captions import (
    Captions,
    Parts,
    compose,
    take_apart,
    variant_seeds,
    without_sentence,
)

SHUFFLE = CaptionOptions(shuffle_tags=True)
TAGS = ("a", "b", "c", "d")


def seeds(count, epoch=0):
    return draw_seed(7, epoch, id_words(["0123456789abcdef"] * count), np.arange(count)).tolist()


# --- what is what ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "sentence", "trigger", "parts"),
    [
        ("a, b,c , d", {}, "", "", Parts((), TAGS)),
        ("a, b, c, d", {"keep_tags": 2}, "", "", Parts(("a", "b"), ("c", "d"))),
        ("a, b", {"keep_tags": 5}, "", "", Parts(("a", "b"), ())),
        ("tok, a, b", {"keep_tags": 1}, "", "tok", Parts(("tok", "a"), ("b",))),
        ("a, a tok hat, b", {}, "", "tok", Parts(("a tok hat",), ("a", "b"))),
        ("tokens, a", {}, "", "tok", Parts((), ("tokens", "a"))),
        ("a, b, A cat, red.", {}, "A cat, red.", "", Parts((), ("a", "b"), ("A cat, red.",))),
        ("a, A cat, red., b", {}, "A cat, red.", "", Parts((), ("a", "b"), ("A cat, red.",))),
        ("straw hat, b", {}, "hat", "", Parts((), ("straw hat", "b"))),
        ("a, b ||| c, d", {}, "", "", Parts((), ("a", "b ||| c", "d"))),
        ("a, b ||| c, d", {"keep_separator": "|||"}, "", "", Parts(("a", "b"), ("c", "d"))),
        # the separator counts where it stands, the number elsewhere
        ("a ||| b, c", {"keep_separator": "|||", "keep_tags": 2}, "", "",
         Parts(("a",), ("b", "c"))),
        ("a, b, c", {"keep_separator": "|||", "keep_tags": 2}, "", "", Parts(("a", "b"), ("c",))),
        ("a|||b, tok|||c, d", {"keep_separator": "|||"}, "", "tok",
         Parts(("tok", "a"), ("b",), ("c", "d"))),
        ("a|||b|||c, S.", {"keep_separator": "|||"}, "S.", "", Parts(("a",), ("b",), ("c", "S."))),
        (" , a,, ", {}, "", "", Parts((), ("a",))),
        ("", {"keep_tags": 1}, "", "tok", Parts((), ())),
    ],
)  # fmt: skip
def test_a_caption_is_taken_apart(text, options, sentence, trigger, parts):
    assert take_apart(text, CaptionOptions(**options), sentence, trigger) == parts


def test_a_sentence_is_found_between_commas_alone():
    assert without_sentence("a, b, A cat, red.", "A cat, red.") == "a, b"
    assert without_sentence("A cat.", "A cat.") == ""
    assert without_sentence("a, A cat. Two", "A cat.") is None
    assert without_sentence("tok, a (b)*, c", "a (b)*") == "tok, c"


# --- what is drawn -----------------------------------------------------------------------------


def test_each_order_is_drawn_as_often_as_any_other():
    found = Counter(compose(Parts((), TAGS), SHUFFLE, seed) for seed in seeds(2400))
    assert found.keys() == {", ".join(order) for order in itertools.permutations(TAGS)}
    assert max(abs(count - 100) for count in found.values()) < 45  # deviation 9.8


def test_what_is_kept_stays_in_front_and_a_sentence_behind():
    parts = Parts(("tok", "first"), TAGS, ("A sentence, with a comma.",))
    for seed in seeds(200):
        tags = compose(parts, SHUFFLE, seed).split(", ")
        assert tags[:2] == ["tok", "first"] and tags[-2:] == ["A sentence", "with a comma."]
        assert sorted(tags[2:-2]) == list(TAGS)


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_tag_is_dropped_at_the_asked_rate_and_kept_ones_never(shuffle):
    options = CaptionOptions(shuffle_tags=shuffle, tag_dropout=0.25)
    parts = Parts(("tok",), TAGS, ("S.",))
    left, together = Counter(), 0
    for seed in seeds(4000):
        first, *tags, last = compose(parts, options, seed).split(", ")
        assert (first, last) == ("tok", "S.") and len(set(tags)) == len(tags)
        assert shuffle or tags == sorted(tags)
        left.update(tags)
        together += not {"a", "b"} & set(tags)
    assert all(abs(left[tag] / 4000 - 0.75) < 0.035 for tag in TAGS)  # deviation 0.007
    assert abs(together / 4000 - 0.0625) < 0.02  # tags are dropped independently


def test_order_and_dropout_are_drawn_apart():
    both = CaptionOptions(shuffle_tags=True, tag_dropout=0.5)
    for seed in seeds(100):
        order = compose(Parts((), TAGS), SHUFFLE, seed).split(", ")
        left = [tag for tag in compose(Parts((), TAGS), both, seed).split(", ") if tag]
        assert left == [tag for tag in order if tag in left]


def test_everything_may_be_dropped():
    options = CaptionOptions(tag_dropout=1.0)
    assert compose(Parts((), TAGS), options, 1) == ""
    assert compose(Parts(("tok",), TAGS), options, 1) == "tok"


def test_a_caption_is_a_function_of_its_seed():
    parts, options = Parts((), TAGS), CaptionOptions(shuffle_tags=True, tag_dropout=0.2)
    once = [compose(parts, options, seed) for seed in seeds(50)]
    assert once == [compose(parts, options, seed) for seed in seeds(50)]
    assert once != [compose(parts, options, seed) for seed in seeds(50, epoch=1)]
    # these must stay what they are, or runs could not be resumed by a later version
    assert compose(Parts(("tok",), TAGS), options, 2026) == "tok, b, d, c"
    assert compose(Parts((), TAGS), options, 2**63 - 1) == "c, d, b, a"


# --- all captions of a picture -----------------------------------------------------------------


def test_with_nothing_drawn_a_caption_is_as_it_stands():
    captions = Captions("b,a ,  c", trigger="a")
    assert captions.plain == captions.drawn(None) == captions.drawn(5) == "b,a ,  c"
    assert captions.cached("0" * 16) == {"b,a ,  c"}
    assert captions.cached("0" * 16, trigger="a") == {"b,a ,  c", "b, c"}


def test_a_separator_is_in_no_caption():
    options = CaptionOptions(keep_separator="|||", shuffle_tags=True)
    captions = Captions("tok, a ||| b, c,||| d", options)
    assert captions.plain == "tok, a, b, c, d"
    drawn = {captions.drawn(seed) for seed in seeds(20)}
    assert drawn == {"tok, a, b, c, d", "tok, a, c, b, d"}
    alone = Captions("|||b, c", CaptionOptions(keep_separator="|||"))
    assert alone.drawn(3) == "b, c"


def test_a_sentence_that_stands_for_tags_gets_the_trigger_in_front():
    captions = Captions("tok, a, b", SHUFFLE, "A cat.", "tok", either=True)
    assert captions.drawn(1, sentence=True) == "tok, A cat."
    assert captions.drawn(None) == "tok, a, b"
    assert {captions.drawn(seed) for seed in seeds(20)} == {"tok, a, b", "tok, b, a"}
    assert Captions("a", SHUFFLE, "A tok.", "tok", True).drawn(1, True) == "A tok."
    assert Captions("a", SHUFFLE, "A cat.", "", True).drawn(1, True) == "A cat."


def test_the_cached_captions_are_those_that_can_be_drawn():
    options = CaptionOptions(shuffle_tags=True, tag_dropout=0.3, caption_variants=4)
    captions = Captions("tok, a, b, c, d, e", options, "A cat.", "tok", either=True)
    key = "00ff00ff00ff00ff"
    drawable = {captions.drawn(seed)
                for seed in variant_seeds(id_words([key] * 4), np.arange(4)).tolist()}  # fmt: skip
    assert len(drawable) == 4
    cached = captions.cached(key)
    assert cached == drawable | {"tok, a, b, c, d, e", "tok, A cat."}
    assert captions.cached(key, trained=False) == {"tok, a, b, c, d, e"}
    assert captions.cached(key, trigger="tok") == cached | {t.removeprefix("tok, ") for t in cached}
    assert captions.cached("11ff00ff00ff00ff") != cached
    # more of them leave those that are there
    more = Captions(captions.text, CaptionOptions(**{**options.given(), "caption_variants": 9}),
                    "A cat.", "tok", either=True)  # fmt: skip
    assert more.cached(key) > cached
