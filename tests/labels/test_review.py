import pytest

from elf.labels.review import (
    Label,
    by_models,
    changes,
    confidence,
    edited,
    in_force,
    in_words,
    one_line,
    split_tags,
    unusualness,
    verdict,
    without,
)

MODELS = Label(None, ["wood_elf", "short hair"], "An elf.")


def record(key, tags, **attributes):
    scores = {tag: 0.9 - 0.2 * place for place, tag in enumerate(tags)}
    attributes = {"scores": scores} | attributes
    return {"id": key, "tags": ["wood_elf", *tags], "caption": None, "attributes": attributes}


def test_confidence_is_the_mean_score():
    assert confidence(record("a", ["elf", "fern"])) == pytest.approx(0.8)
    assert confidence({"tags": ["a"], "attributes": {}}) is None


def test_rare_tags_make_a_picture_unusual():
    labels = {"a": ["elf", "fern"], "b": ["elf", "fern", "moss"], "c": ["robot"], "d": ["elf"]}
    rare = unusualness(record(key, tags) for key, tags in labels.items())
    assert max(rare, key=rare.get) == "c" and min(rare, key=rare.get) == "d"
    assert unusualness([{"id": "a", "tags": []}]) == {"a": 0.0}


def test_a_picture_that_is_left_out_shows_the_models_label():
    entry = {
        "id": "a", "tags": [], "caption": None,
        "attributes": {
            "decision": {"keep": False, "edited": []},
            "before_review": {"tags": ["a"], "caption": "b"},
        },
    }  # fmt: skip
    assert in_force(entry) == Label(False, ["a"], "b")
    assert by_models(entry) == Label(None, ["a"], "b")
    entry["attributes"]["decision"]["keep"] = True
    assert in_force(entry) == Label(True, [], "")


def test_only_what_changed_is_a_decision():
    assert changes(MODELS, MODELS) == {}
    assert changes(MODELS, edited(MODELS, MODELS, {"keep": True})) == {"keep": True}
    wanted = Label(None, ["x"], "y")
    assert changes(MODELS, wanted) == {"tags": ["x"], "caption": "y"}
    assert edited(wanted, MODELS, {"keep": None, "tags": None, "caption": None}) == MODELS


def test_what_was_decided_in_words():
    assert in_words(MODELS, MODELS) is None
    assert in_words(Label(False, MODELS.tags, MODELS.caption), MODELS) == "drop"
    assert in_words(Label(True, ["x"], ""), MODELS) == "keep, edited"


@pytest.mark.parametrize(
    ("tags", "before", "said"),
    [
        ((), None, None), ((), True, None),
        (("keep", "other"), None, True), (("drop",), None, False),
        (("keep", "drop"), False, True), (("keep", "drop"), True, False),
        (("keep", "drop"), None, False),
    ],
)  # fmt: skip
def test_of_two_verdicts_the_new_one_counts(tags, before, said):
    assert verdict(tags, before) is said


def test_tags_of_a_text():
    assert split_tags(" a  b ,,c\nd, c,\t") == ["a b", "c", "d"]
    assert split_tags(None) == split_tags(" ,\n") == []
    assert one_line(" An elf\n in  moss ") == "An elf in moss" and one_line(None) == ""


def test_striking_out_ignores_case_and_underscores():
    assert without(["wood_elf", "short hair", "^_^"], ["Short_Hair", "nope"]) == ["wood_elf", "^_^"]
