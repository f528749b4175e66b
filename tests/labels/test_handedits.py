"""Text files edited by hand: never overwritten, and never seen where there are none."""

import builtins
import contextlib
import gc
import json
import os
from pathlib import Path

import pytest

import elf.files
import elf.labels.handedits
import elf.labels.labeltext
from elf.errors import ElfError
from elf.files import read_log
from elf.labels.decisions import add_decisions, apply_decision, read_decisions
from elf.labels.handedits import HandEdits, OldRecords, edit_of, gives, parts, same_text
from elf.labels.journal import Journal
from elf.labels.labeltext import label_text
from elf.labels.manifest import PENDING, LabelFolder

COUNT = 4
IDS = [f"{number:016x}" for number in range(COUNT)]


def record(number, rules="old", kind="tags"):
    return {
        "id": IDS[number], "path": f"{number}.png", "tags": ["wood_elf", f"{rules} {number}"],
        "caption": f"A {rules} picture, seen.", "attributes": {"text": kind, "trigger": "wood_elf"},
    }  # fmt: skip


def label(folder, rules="old", numbers=range(COUNT), kind="tags"):
    labels = LabelFolder(folder)
    for number in numbers:
        labels.write(record(number, rules, kind))
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

    monkeypatch.setattr(elf.labels.handedits.HandEdits, "_held", fail)
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
    old.forget()


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
            (elf.labels.labeltext, "replace_file"), (os, "write"), (os, "ftruncate"),
        ):  # fmt: skip
            patch.setattr(place, name, dying(getattr(place, name)))
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.fault(1)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what is killed closes no file
@pytest.mark.parametrize("relabel", [label, together])
def test_no_kill_makes_an_edit_or_loses_one(tmp_path, monkeypatch, relabel):
    """Killed before each write in turn, then labelled by other rules, with one real edit."""
    for number in range(200):
        folder = tmp_path / str(number)
        label(folder, "older")  # a shorter text has to be cut when it was written over
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


@pytest.mark.parametrize("kind", ["tags", "caption", "both"])
@pytest.mark.parametrize("left", ["whole", "not cut", "cut", "old", "zeros"])
def test_a_text_that_an_interruption_tore_is_completed(tmp_path, kind, left):
    label(tmp_path, "older", kind=kind)
    with elf.files.AppendLog(tmp_path / PENDING) as pending:
        pending.append(record(0, "new", kind))
    old, new = (label_text(record(0, rules, kind)) for rules in ("older", "new"))
    states = {"whole": new, "not cut": new + old[len(new) :], "cut": old[: len(new)], "old": old,
              "zeros": "\0" * len(new)}  # fmt: skip
    edit(tmp_path, 0, states[left])
    LabelFolder(tmp_path).close()
    assert text(tmp_path, 0) == new
    label(tmp_path, "newest", kind=kind)
    assert text(tmp_path, 0) == label_text(record(0, "newest", kind))
    assert not (tmp_path / "decisions.jsonl").exists()


def test_a_letter_cut_in_two_is_torn_too(tmp_path):
    label(tmp_path, "n\u00e9")
    with elf.files.AppendLog(tmp_path / PENDING) as pending:
        pending.append(record(0, "n"))
    old, new = (label_text(record(0, rules)).encode() for rules in ("n\u00e9", "n"))
    (tmp_path / f"{IDS[0]}.txt").write_bytes(old[: len(new)])
    LabelFolder(tmp_path).close()
    assert (tmp_path / f"{IDS[0]}.txt").read_bytes() == new


def test_a_decision_after_a_kill_wins_over_the_text_that_was_being_written(tmp_path):
    label(tmp_path)
    with elf.files.AppendLog(tmp_path / PENDING) as pending:
        pending.append(record(0, "new"), record(1, "new"))
    edit(tmp_path, 0, label_text(record(0, "new")))
    add_decisions(tmp_path, [{"id": IDS[n], "tags": ["decided"]} for n in range(2)])
    label(tmp_path, "newest")
    assert [text(tmp_path, n) for n in range(2)] == ["decided\n"] * 2
    assert len(read_log(tmp_path / "decisions.jsonl")) == 2


@pytest.mark.fault(7)
@pytest.mark.parametrize("relabel", [label, together])
@pytest.mark.parametrize("lasting", [True, False])
def test_no_failing_write_makes_an_edit(tmp_path, monkeypatch, relabel, lasting):
    """From the n-th on, calls that write a text fail: all, or that one and what is tried instead.

    Then the run is stopped.
    """
    errors = 0
    for number in range(100):
        folder = tmp_path / str(number)
        label(folder, "older")
        calls = 0

        def failing(real, first=number + 1):
            def call(*args, **options):
                nonlocal calls
                calls += 1
                if calls >= first and (lasting or calls < first + 2):
                    raise OSError(28, "No space left on device")
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", failing(os.write))
            patch.setattr(os, "ftruncate", failing(os.ftruncate))
            patch.setattr(
                elf.labels.labeltext, "replace_file", failing(elf.labels.labeltext.replace_file)
            )
            patch.setattr(os, "fsync", failing(os.fsync))
            writers = [LabelFolder(folder)]
            writers += [Journal(folder, 0)] if relabel is together else []
            try:
                writers[-1].write(*(record(n, "new") for n in range(COUNT)))
            except ElfError as error:
                assert "could not write (No space left on device)" in str(error)
                errors += 1
            for writer in reversed(writers):
                with contextlib.suppress(ElfError):
                    writer.close()
        relabel(folder, "newest")
        assert [text(folder, n) for n in range(COUNT)] == [
            f"wood_elf, newest {n}\n" for n in range(COUNT)
        ]
        assert not (folder / "decisions.jsonl").exists(), number
        if calls <= number:
            break
    assert errors > COUNT


def test_records_as_elf_writes_them_are_compared_without_being_parsed(tmp_path):
    odd = ["wood_elf", 'say "hi" now', r"fern \(plant\)", "déjà vu", "a"]
    labels = LabelFolder(tmp_path)
    labels.write(record(0), record(1) | {"tags": odd}, record(2, kind="both"))
    labels.close()
    lines = (tmp_path / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    held = [text(tmp_path, n).encode() for n in range(3)]
    assert [gives(line, content) for line, content in zip(lines, held, strict=True)] == [
        True, True, False,
    ]  # fmt: skip
    for changed in (b"", b"\n", held[0][:-1], held[0][:-1] + b"x", held[0] + b"\n", held[0][1:],
                    b'wood_elf", "old 0\n', b"\xff\n"):  # fmt: skip
        assert not gives(lines[0], changed), changed
    with_an_empty_tag = lines[0].replace(b'"old 0"', b'"", "old 0"')
    assert not gives(with_an_empty_tag, b"wood_elf, , old 0\n")


def test_a_record_that_was_reviewed_gives_what_the_reviewer_wrote():
    entry = record(0)
    decided = apply_decision(entry, {"tags": ["mine"]})
    line = json.dumps(decided).encode()
    assert b'"tags": ["wood_elf", "old 0"], ' in line
    assert not gives(line, label_text(entry).encode())


def unlocked(self, folder, name=".lock"):
    self.path = Path(folder) / name
    self.path.touch()
