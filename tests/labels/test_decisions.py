import json

import pytest

from elf.errors import ElfError
from elf.files import read_log
from elf.labels.decisions import add_decisions, apply_decision, read_decisions
from elf.labels.manifest import LabelFolder
from elf.labels.records import labelled_ids

ID = f"{1:016x}"


def record(number=1, **more):
    return {
        "id": f"{number:016x}", "path": f"{number}.png", "tags": ["wood_elf", f"t{number}"],
        "caption": "a caption", "attributes": {"florence_status": "ok"},
    } | more  # fmt: skip


def label(folder, *records):
    labels = LabelFolder(folder)
    for entry in records:
        labels.write(entry)
    labels.finish()
    labels.close()


def entry(folder, key=ID):
    (found,) = (r for r in read_log(folder / "manifest.jsonl") if r["id"] == key)
    return found


def test_later_lines_win_key_by_key(tmp_path):
    lines = [{"keep": True, "tags": ["a"]}, {"tags": ["b"]}, {"caption": "c"}, {"keep": None}]
    add_decisions(tmp_path, ({"id": ID} | line for line in lines))
    assert read_decisions(tmp_path) == {ID: {"tags": ["b"], "caption": "c"}}
    add_decisions(tmp_path, [{"id": ID, "tags": None, "caption": None}])
    assert read_decisions(tmp_path) == {}
    assert read_decisions(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "x", "keep": True}, r"decisions.jsonl, line 1: no `id` of 16 hex digits; mend or"),
        ({"id": int("1" * 16), "keep": True}, r"decisions.jsonl, line 1: no `id` of 16 hex digits"),
        ({"id": ID, "keep": "no"}, r"line 1: `keep` must be true, false or null; mend"),
        ({"id": ID, "tags": "a, b"}, r"line 1: `tags` must be a list of strings or null; mend"),
        ({"id": ID, "tags": [1]}, r"line 1: `tags` must be a list of strings or null; mend"),
        ({"id": ID, "caption": 3}, r"line 1: `caption` must be a string or null; mend"),
    ],
)
def test_a_line_that_says_something_else_is_an_error(tmp_path, line, message):
    (tmp_path / "decisions.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ElfError, match=message):
        read_decisions(tmp_path)
    with pytest.raises(ElfError, match=message):
        LabelFolder(tmp_path)
    with pytest.raises(ElfError, match=r"decision \{"):
        add_decisions(tmp_path, [line])


def test_applying_again_or_no_longer_gives_what_it_should():
    decision = {"tags": ["mine"], "caption": "my words"}
    once = apply_decision(record(), decision)
    assert (once["tags"], once["caption"]) == (["mine"], "my words")
    assert once["attributes"]["decision"] == {"keep": None, "edited": ["caption", "tags"]}
    assert apply_decision(once, decision) == once
    assert apply_decision(once, None) == record()
    assert apply_decision(record(), None) == record()
    other = apply_decision(once, {"caption": "else"})
    assert (other["tags"], other["caption"]) == (["wood_elf", "t1"], "else")


def test_edits_win_over_every_later_label(tmp_path):
    label(tmp_path, record(), record(2))
    add_decisions(tmp_path, [{"id": ID, "tags": ["wood_elf", "mine"]}])
    for tags in (["a"], ["b"]):
        label(tmp_path, record(tags=tags), record(2, tags=tags))
        assert entry(tmp_path)["tags"] == ["wood_elf", "mine"]
        assert entry(tmp_path)["attributes"]["before_review"]["tags"] == tags
        assert (tmp_path / f"{ID}.txt").read_text() == "wood_elf, mine\n"
        assert (tmp_path / f"{2:016x}.txt").read_text() == f"{tags[0]}\n"


def test_a_picture_that_is_left_out_has_nothing_to_train_with(tmp_path):
    label(tmp_path, record(), record(2))
    add_decisions(tmp_path, [{"id": ID, "keep": False}])
    label(tmp_path)
    assert not (tmp_path / f"{ID}.txt").exists()
    assert (entry(tmp_path)["tags"], entry(tmp_path)["caption"]) == ([], None)
    label(tmp_path, record(tags=["new"]))
    assert not (tmp_path / f"{ID}.txt").exists()
    assert labelled_ids(tmp_path) == {ID, f"{2:016x}"}  # it is not labelled again and again
    add_decisions(tmp_path, [{"id": ID, "keep": True}])
    label(tmp_path)
    assert (tmp_path / f"{ID}.txt").read_text() == "new\n"
    assert entry(tmp_path)["caption"] == "a caption"


def test_decisions_are_brought_into_the_labels_when_the_folder_is_opened(tmp_path):
    label(tmp_path, record())
    whole = (tmp_path / "manifest.jsonl").read_bytes()
    add_decisions(tmp_path, [{"id": ID, "caption": "mine"}])
    label(tmp_path)
    assert entry(tmp_path)["caption"] == "mine"
    add_decisions(tmp_path, [{"id": ID, "caption": None}])
    label(tmp_path)
    assert (tmp_path / "manifest.jsonl").read_bytes() == whole


def test_decisions_about_pictures_that_are_not_there_wait(tmp_path):
    add_decisions(tmp_path, [{"id": ID, "tags": ["mine"]}])
    label(tmp_path)
    label(tmp_path, record())
    assert entry(tmp_path)["tags"] == ["mine"]
