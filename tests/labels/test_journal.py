"""Several processes: journals, and the manifest that they become."""

import pytest

from elf.errors import ElfError
from elf.files import read_log
from elf.labels.decisions import add_decisions
from elf.labels.journal import Journal
from elf.labels.manifest import LabelFolder
from elf.labels.records import labelled_ids


def record(number, **more):
    return {"id": f"{number:016x}", "path": f"{number:02}.png", "tags": [f"t{number}"]} | more


def content(folder):
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")
    }


def alone(folder, numbers, **more):
    labels = LabelFolder(folder)
    for number in numbers:
        labels.write(record(number, **more))
    labels.quarantine({"id": "", "path": "bad.png", "reason": "damaged"})
    labels.finish()
    labels.close()


def together(folder, numbers, world=3, **more):
    labels = LabelFolder(folder)
    journals = [Journal(folder, rank) for rank in range(world)]
    for number in numbers:
        journals[number % world].write(record(number, **more))
    journals[-1].quarantine({"id": "", "path": "bad.png", "reason": "damaged"})
    for journal in journals:
        journal.sync()
        journal.close()
    labels.take_in()
    labels.finish()
    labels.close()


def test_the_merge_is_what_one_process_would_have_written(tmp_path):
    alone(tmp_path / "one", range(10))
    together(tmp_path / "three", range(10))
    assert content(tmp_path / "one") == content(tmp_path / "three")
    alone(tmp_path / "one", [3, 12, 11, 4], extra=1)
    together(tmp_path / "three", [3, 12, 11, 4], extra=1)
    one, three = (read_log(tmp_path / name / "manifest.jsonl") for name in ("one", "three"))
    assert sorted(one, key=lambda r: r["id"]) == sorted(three, key=lambda r: r["id"])
    assert [r["id"] for r in one[:10]] == [r["id"] for r in three[:10]]


def test_journals_of_a_run_that_was_stopped_are_taken_in_by_the_next(tmp_path):
    labels = LabelFolder(tmp_path)
    journals = [Journal(tmp_path, rank) for rank in range(2)]
    journals[1].write(record(3))
    journals[0].write(record(2))
    for part in (*journals, labels):
        part.close()
    path = tmp_path / ".journal-00000.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "00000')  # torn
    assert labelled_ids(tmp_path) == {f"{2:016x}", f"{3:016x}"}
    LabelFolder(tmp_path).close()
    assert [r["path"] for r in read_log(tmp_path / "manifest.jsonl")] == ["02.png", "03.png"]
    assert not list(tmp_path.glob(".journal*"))


def test_copies_that_two_processes_labelled_count_once_under_the_first_path(tmp_path):
    labels = LabelFolder(tmp_path)
    journals = [Journal(tmp_path, rank) for rank in range(2)]
    journals[0].write(record(1, path="b.png"))
    journals[1].write(record(1, path="a.png"))
    assert journals[1].write(record(1, path="c.png")) == [False]
    for journal in journals:
        journal.close()
    labels.take_in()
    labels.close()
    assert [r["path"] for r in read_log(tmp_path / "manifest.jsonl")] == ["a.png"]


def test_decisions_win_in_journals_too(tmp_path):
    add_decisions(tmp_path, [{"id": f"{1:016x}", "tags": ["mine"]}])
    together(tmp_path, [1, 2])
    assert [r["tags"] for r in read_log(tmp_path / "manifest.jsonl")] == [["mine"], ["t2"]]


def test_a_second_process_of_the_same_rank_is_refused(tmp_path):
    journal = Journal(tmp_path, 1)
    with pytest.raises(ElfError, match="is being written by another process"):
        Journal(tmp_path, 1)
    journal.close()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path, 0)
    journal.write(record(1))
    monkeypatch.setattr("elf.labels.journal.write_texts", full)
    with pytest.raises(ElfError, match=r"could not write \(No space left on device\); 1 label is"):
        journal.write(record(2))
    journal.close()
