"""Text files edited by hand: never overwritten, and never seen where there are none."""

import builtins
import gc
import os
from pathlib import Path

import pytest

import elf.files
import elf.handedits
import elf.labeltext
from elf.decisions import add_decisions, apply_decision, read_decisions
from elf.errors import ElfError
from elf.files import read_log
from elf.handedits import HandEdits, OldRecords, edit_of, parts, same_text
from elf.journal import Journal
from elf.labeltext import label_text
from elf.manifest import LabelFolder

COUNT = 4
IDS = [f"{number:016x}" for number in range(COUNT)]


def record(number, rules="old", kind="tags"):
    return {
        "id": IDS[number], "path": f"{number}.png", "tags": ["wood_elf", f"{rules} {number}"],
        "caption": f"A {rules} picture, seen.", "attributes": {"text": kind, "trigger": "wood_elf"},
    }  # fmt: skip


def label(folder, rules="old", numbers=range(COUNT)):
    labels = LabelFolder(folder)
    for number in numbers:
        labels.write(record(number, rules))
    labels.finish()
    labels.close()


def together(folder, rules):
    labels = LabelFolder(folder)
    journals = [Journal(folder, rank) for rank in range(2)]
    for number in range(COUNT):
        journals[number % 2].write(record(number, rules))
    for journal in journals:
        journal.close()
    labels.take_in()
    labels.close()


def text(folder, number):
    return (folder / f"{IDS[number]}.txt").read_text()


def edit(folder, number, content):
    (folder / f"{IDS[number]}.txt").write_text(content)


@pytest.mark.parametrize("relabel", [label, together])
def test_an_edit_outlives_every_later_label(tmp_path, capsys, relabel):
    label(tmp_path)
    edit(tmp_path, 1, "wood_elf, mine,  two  words\n\n")
    for rules in ("new", "newer"):
        relabel(tmp_path, rules)
        assert parts(text(tmp_path, 1)) == ["wood_elf", "mine", "two words"]
        assert text(tmp_path, 2) == f"wood_elf, {rules} 2\n"
    assert read_log(tmp_path / "decisions.jsonl") == [
        {"id": IDS[1], "tags": ["wood_elf", "mine", "two words"]}
    ]
    manifest = {entry["id"]: entry for entry in read_log(tmp_path / "manifest.jsonl")}
    assert manifest[IDS[1]]["tags"] == ["wood_elf", "mine", "two words"]
    assert manifest[IDS[1]]["attributes"]["before_review"]["tags"] == ["wood_elf", "newer 1"]
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert said == [f"1 text files were edited by hand: they stay, and are noted in {tmp_path}/"
                    "decisions.jsonl"]  # fmt: skip


def test_a_later_edit_wins_over_a_decision(tmp_path):
    label(tmp_path)
    add_decisions(tmp_path, [{"id": IDS[0], "tags": ["decided"], "caption": "kept"}])
    label(tmp_path, numbers=[])
    edit(tmp_path, 0, "by hand\n")
    label(tmp_path, "new")
    assert read_decisions(tmp_path) == {IDS[0]: {"tags": ["by hand"], "caption": "kept"}}


def test_a_decision_does_not_run_over_an_edit(tmp_path):
    label(tmp_path)
    edit(tmp_path, 0, "by hand\n")
    add_decisions(tmp_path, [{"id": IDS[0], "caption": "decided"}])
    label(tmp_path, numbers=[])
    assert text(tmp_path, 0) == "by hand\n"
    assert read_decisions(tmp_path) == {IDS[0]: {"tags": ["by hand"], "caption": "decided"}}
    add_decisions(tmp_path, [{"id": IDS[1], "keep": False}])
    edit(tmp_path, 1, "edited, then dropped\n")
    label(tmp_path, numbers=[])
    assert read_decisions(tmp_path)[IDS[1]] == {"tags": ["edited", "then dropped"], "keep": False}
    assert not (tmp_path / f"{IDS[1]}.txt").exists()


@pytest.mark.parametrize("content", ["wood_elf,old 0", " wood_elf, old  0 \r\n\r\n", "", "\0\0\0"])
def test_spaces_and_what_a_power_loss_leaves_are_no_edits(tmp_path, content):
    label(tmp_path)
    edit(tmp_path, 0, content)
    label(tmp_path, "new")
    assert text(tmp_path, 0) == "wood_elf, new 0\n"
    assert not (tmp_path / "decisions.jsonl").exists()


def test_a_text_that_the_new_rules_give_is_no_edit(tmp_path):
    label(tmp_path)
    edit(tmp_path, 0, "wood_elf, new 0\n")
    label(tmp_path, "new")
    assert not (tmp_path / "decisions.jsonl").exists()


def test_a_text_in_another_encoding_is_one_line(tmp_path):
    label(tmp_path)
    (tmp_path / f"{IDS[0]}.txt").write_bytes("déjà".encode("latin-1"))
    labels = LabelFolder(tmp_path)
    with pytest.raises(ElfError, match=r"0000.txt: no UTF-8; save it as UTF-8, or delete it"):
        labels.write(record(0, "new"))
    labels.close()
    edit(tmp_path, 0, "\ufeffd\u00e9j\u00e0\n")  # as editors on Windows begin a file
    label(tmp_path, "new")
    assert read_decisions(tmp_path) == {IDS[0]: {"tags": ["déjà"]}}


def test_pictures_that_are_not_labelled_again_are_not_read(tmp_path, monkeypatch):
    label(tmp_path)
    edit(tmp_path, 0, "by hand\n")

    def fail(*_, **__):
        raise AssertionError("a text file was read")

    monkeypatch.setattr(elf.handedits.HandEdits, "_held", fail)
    label(tmp_path, numbers=[])


@pytest.mark.parametrize("kind", ["tags", "caption", "both"])
@pytest.mark.parametrize("content", [
    "wood_elf, old 0, fern", "fern", "", "wood_elf", "wood_elf, A cat, asleep.",
    "wood_elf, old 0, A cat, asleep.", "A cat, asleep.", "fern, A old picture, seen.",
    "wood_elf, old 0, fern, A old picture, seen.", "A old picture, seen.",
])  # fmt: skip
@pytest.mark.parametrize("caption", [True, False])
def test_the_decision_gives_the_edited_text_again(kind, content, caption):
    entry = record(0, kind=kind) | ({} if caption else {"caption": None})
    decision = edit_of(entry, content)
    assert same_text(label_text(apply_decision(entry, decision)), content)


def test_what_an_edit_was_about():
    assert edit_of(record(0), "a, b\nc") == {"tags": ["a", "b", "c"]}
    assert edit_of(record(0, kind="caption"), "wood_elf, A cat.") == {"caption": "A cat."}
    both = record(0, kind="both")
    assert edit_of(both, "wood_elf, A old picture, seen.") == {"tags": ["wood_elf"]}
    assert edit_of(both, "wood_elf, old 0, A cat.") == {"caption": "A cat."}
    assert edit_of(both, "wood_elf, A cat.") == {"tags": ["wood_elf"], "caption": "A cat."}


def test_old_records_are_read_where_they_stand(tmp_path):
    label(tmp_path)
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes() + b'{"tags": [], "id": "00000000000000ff"}\n')
    old = OldRecords(path)
    assert old.get(IDS[2]) == record(2) and old.get("00000000000000ff")["tags"] == []
    assert old.get("0000000000000099") is None
    assert OldRecords(tmp_path / "none").get(IDS[0]) is None
    edits = HandEdits(tmp_path, old, {})
    assert edits.decided(record(0)) == record(0) and edits.count == 0


class Killed(BaseException):
    """A kill: no error handling of the program sees an Exception."""


def killed_at(monkeypatch, number, action):
    """Run an action that dies before its n-th write; return whether it came to that."""
    calls = 0

    def dying(real):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls > number:
                raise Killed  # and of what follows, such as closing, nothing happens either
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for place, name in (
            (os, "replace"), (Path, "unlink"), (Path, "touch"), (elf.files.AppendLog, "append"),
            (elf.files.AppendLog, "rewrite"), (elf.files, "replace_file"),
            (elf.labeltext, "replace_file"),
        ):  # fmt: skip
            patch.setattr(place, name, dying(getattr(place, name)))
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what is killed closes no file
@pytest.mark.parametrize("relabel", [label, together])
def test_no_kill_makes_an_edit_or_loses_one(tmp_path, monkeypatch, relabel):
    """Killed before each write in turn, then labelled by other rules, with one real edit."""
    for number in range(200):
        folder = tmp_path / str(number)
        label(folder)
        edit(folder, 3, "by hand\n")
        add_decisions(folder, [{"id": IDS[0], "tags": ["decided"]}])
        with monkeypatch.context() as patch:  # a kill frees the locks: nothing is held here
            patch.setattr(elf.files.FolderLock, "__init__", unlocked)
            patch.setattr(elf.files.FolderLock, "close", lambda self: None)
            patch.setattr(builtins, "print", lambda *_, **__: None)
            killed = killed_at(patch, number, lambda folder=folder: relabel(folder, "new"))
        edit(folder, 2, "after the kill\n")
        relabel(folder, "newest")
        assert read_decisions(folder) == {
            IDS[0]: {"tags": ["decided"]},
            IDS[2]: {"tags": ["after the kill"]},
            IDS[3]: {"tags": ["by hand"]},
        }, number
        expected = ["decided\n", "wood_elf, newest 1\n", "after the kill\n", "by hand\n"]
        assert [text(folder, n) for n in range(COUNT)] == expected, number
        assert sorted(e["id"] for e in read_log(folder / "manifest.jsonl")) == IDS
        if not killed:
            break
    assert number > 20
    gc.collect()


def unlocked(self, folder, name=".lock"):
    self.path = Path(folder) / name
    self.path.touch()
