import re

import pytest

from elf.datamodules.shards import ShardDataModule
from elf.errors import ElfError
from elf.preparation.captionoptions import NOTHING, CaptionOptions, resolve
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings

FIXED = "no tag is shuffled or dropped: set shuffle_tags or tag_dropout too, or leave it out"
SENTENCE = "a sentence has no tags: set caption to tags, both or either, or leave it out"
EITHER = "only caption either draws one of two: set that, or leave it out"
LIVE = (
    "with text_states live no caption is cached, and each is drawn anew: leave it out, or set "
    "text_states to cached"
)
SHUFFLE = {"shuffle_tags": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_tags": -1, **SHUFFLE}, "keep_tags -1 is too small: at least 0"),
        ({"caption_variants": 0, **SHUFFLE}, "caption_variants 0 is too small: at least 1"),
        ({"tag_dropout": 1.5}, "tag_dropout 1.5 is a share: give a number from 0 to 1"),
        ({"tag_dropout": float("nan")}, "tag_dropout nan is a share: give a number from 0 to 1"),
        (
            {"sentence_share": -0.5, "caption": "either"},
            "sentence_share -0.5 is a share: give a number from 0 to 1",
        ),
        (
            {"keep_separator": ", "},
            "keep_separator ', ' stands between all tags or words: give one like '|||'",
        ),
        (
            {"keep_separator": " "},
            "keep_separator ' ' stands between all tags or words: give one like '|||'",
        ),
        ({"keep_tags": 2}, f"keep_tags 2: {FIXED}"),
        ({"caption_variants": 4}, f"caption_variants 4: {FIXED}"),
        ({"caption": "sentence", **SHUFFLE}, f"shuffle_tags True: {SENTENCE}"),
        ({"caption": "sentence", "tag_dropout": 0.1}, f"tag_dropout 0.1: {SENTENCE}"),
        ({"sentence_share": 0.5}, f"sentence_share 0.5: {EITHER}"),
        ({"sentence_share": 0.0, "caption": "both"}, f"sentence_share 0.0: {EITHER}"),
        ({"caption_variants": 4, "text_states": "live", **SHUFFLE}, f"caption_variants 4: {LIVE}"),
        ({"caption_variants": 1, "text_states": "live"}, f"caption_variants 1: {LIVE}"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_its_key(options, message):
    with pytest.raises(ElfError, match=f"^{re.escape('data.' + message)}$"):
        ShardDataModule(**options)
    # of a set, and of all sets
    live = {"text_states": options.pop("text_states", "cached")}
    one = PictureSet("a", labels="l", **options)
    with pytest.raises(ElfError, match=f"^{re.escape('data.sets[1].' + message)}$"):
        ShardDataModule(sets=[PictureSet("b"), one], **live)
    sets = [PictureSet("a", labels="l"), PictureSet("b", labels="m")]
    with pytest.raises(ElfError, match=f"^{re.escape('data.' + message)}$"):
        ShardDataModule(sets=sets, **options, **live)


def test_an_option_of_all_sets_may_suit_one_of_them():
    sets = [
        PictureSet("a", labels="l", caption="sentence"),
        PictureSet("b", keep_tags=1, caption_variants=3),
        PictureSet("c", shuffle_tags=False, keep_separator=""),
        PictureSet("d"),
    ]
    data = ShardDataModule(
        sets=sets, shuffle_tags=True, keep_tags=2, tag_dropout=0.0, keep_separator="|||"
    )
    first, second, third, fourth = data.settings.sets
    assert first.given() == {"keep_separator": "|||"} and third.given() == {}
    assert second.given() == {"shuffle_tags": True, "keep_tags": 1, "keep_separator": "|||",
                              "caption_variants": 3}  # fmt: skip
    assert fourth.given() == {**second.given(), "keep_tags": 2, "caption_variants": 8}
    assert data.settings.given() == {}


def test_a_set_of_sentences_may_not_shuffle_though_others_do():
    sets = [PictureSet("a"), PictureSet("b", labels="l", caption="sentence", shuffle_tags=True)]
    message = f"data.sets[1].shuffle_tags True: {SENTENCE}"
    with pytest.raises(ElfError, match=f"^{re.escape(message)}$"):
        ShardDataModule(sets=sets, shuffle_tags=True)


def test_what_is_left_out_is_filled_in_where_it_counts():
    def options(kind="tags", live=False, **given):
        return resolve(CaptionOptions(**given), [NOTHING], [kind], live)[0].given()

    assert options() == options(shuffle_tags=False, keep_tags=0, tag_dropout=0.0) == {}
    assert options(shuffle_tags=True) == {"shuffle_tags": True, "caption_variants": 8}
    assert options(tag_dropout=0.1) == {"tag_dropout": 0.1, "caption_variants": 8}
    assert options(shuffle_tags=True, live=True) == {"shuffle_tags": True}
    assert options("either") == {"sentence_share": 0.5}
    assert options("either", sentence_share=0.0) == {"sentence_share": 0.0}
    assert options(caption_variants=1) == {}


# --- folders from before -----------------------------------------------------------------------

OLD = {"resolution": 512, "bucket_step": 64, "min_side": None, "max_side": None, "held_out": 0.05,
       "caption": "tags", "trigger": None, "picture_format": "png", "shard_size": 1000}  # fmt: skip
OLD_SET = {"caption": "both", "default_caption": None, "trigger": "tok", "alpha_mask": False,
           "regularisation": False, "flip": False}  # fmt: skip


def test_settings_are_written_as_before_where_nothing_new_is_used():
    assert Settings().record() == OLD
    data = ShardDataModule(sets=[PictureSet("a", labels="l", caption="both", trigger="tok")])
    assert data.settings.record() == {**OLD, "sets": [OLD_SET]}
    for record in (OLD, {**OLD, "sets": [OLD_SET]}):
        assert Settings.of_record(record).record() == record
    assert Settings.of_record(OLD).difference(Settings()) is None


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_what_changes_the_cached_captions_makes_other_shards(sets, live):
    def settings(**options):
        options |= {"text_states": "live"} if live else {}
        kind = options.pop("caption", "tags")
        if sets:
            return ShardDataModule(sets=[PictureSet("a", labels="l", caption=kind)], **options
                                   ).settings  # fmt: skip
        return ShardDataModule(caption=kind, **options).settings

    prefix = "sets[0]." if sets else ""
    first = settings(shuffle_tags=True, keep_tags=1)
    for key, value, other in [
        ("keep_tags", 2, settings(shuffle_tags=True, keep_tags=2)),
        ("tag_dropout", 0.1, settings(shuffle_tags=True, keep_tags=1, tag_dropout=0.1)),
        ("caption_variants", 3,
         None if live else settings(shuffle_tags=True, keep_tags=1, caption_variants=3)),
        ("keep_separator", "|", settings(shuffle_tags=True, keep_tags=1, keep_separator="|")),
    ]:  # fmt: skip
        if other is None:
            continue
        drawn = live and key != "keep_separator"  # which the caption of validation goes without
        before = first.given().get(key) if not sets else first.sets[0].given().get(key)
        assert first.difference(other) == (None if drawn else (prefix + key, before, value))
        restored = Settings.of_record(other.record())
        assert other.difference(restored) is None and other.record() == restored.record()
    some, none = settings(caption="either", sentence_share=0.2), settings(caption="either")
    assert some.difference(none) is None and some.record() == none.record()


def test_whether_states_are_cached_is_the_first_difference():
    cached = ShardDataModule(shuffle_tags=True).settings
    live = ShardDataModule(shuffle_tags=True, text_states="live").settings
    assert cached.difference(live) == ("text_states", "cached", "live")
    assert live.record()["text_states"] == "live"
