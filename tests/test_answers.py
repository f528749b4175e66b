"""The file of answers: whole lines of one model's, whatever stopped who wrote them."""

import json
from pathlib import Path
from typing import Any

import pytest

from elf.answers import AnswerLog, answered, journal, quarantine
from elf.errors import ElfError
from elf.files import read_log

IDENTITY: dict[str, Any] = {
    "model": {"name": "models/tiny", "sha256": "a"},
    "adapter": {"name": "models/elvish", "sha256": "b", "strength": 1.0},
    "generation": {"max_new_tokens": 8, "temperature": 0.0},
}


def record(key: str, **changes: Any) -> dict[str, Any]:
    return {"id": key, "answer": f"to {key}", "asked": f"digest of {key}", **IDENTITY, **changes}


def ids(path: Path) -> list[str]:
    return [each["id"] for each in read_log(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "an [odd] name.jsonl"


def test_answers_are_lines_that_are_known_again(path: Path) -> None:
    assert answered(path) == {}
    log = AnswerLog(path, IDENTITY)
    log.write(record("b"), record("a"), record("a", answer="twice"))
    log.write(record("b", answer="again"))
    log.close()
    assert [each["answer"] for each in read_log(path)] == ["to b", "to a"]
    assert answered(path) == {"a": "digest of a", "b": "digest of b"}
    with_more = AnswerLog(path, IDENTITY)
    assert with_more.ids == {"a", "b"}
    with_more.close()


@pytest.mark.fault(4)
def test_a_torn_last_line_is_cut_at_every_byte(path: Path) -> None:
    log = AnswerLog(path, IDENTITY)
    log.write(record("a"), record("b"))
    log.close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        log = AnswerLog(path, IDENTITY)
        log.write(record("b"))
        log.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("model", {"sha256": "c"}, r"of another model \(name models/tiny, sha256 a, and this run"),
        ("adapter", {"strength": 0.5}, r"of another adapter \(name models/elvish, sha256 b, stren"),
        ("generation", {"temperature": 1.0}, r"another generation \(max_new_tokens 8, temperatur"),
    ],
)
def test_answers_of_others_are_refused(
    path: Path, key: str, changes: dict[str, Any], message: str
) -> None:
    log = AnswerLog(path, IDENTITY)
    log.write(record("a"))
    log.close()
    other = IDENTITY | {key: IDENTITY[key] | changes}
    for _ in range(2):  # what was refused is not locked
        with pytest.raises(ElfError, match=message):
            AnswerLog(path, other)
    way = r"this run has none\); name another file in data.answers, or delete that one to begin an"
    with pytest.raises(ElfError, match=way):
        AnswerLog(path, IDENTITY | {"adapter": None})
    AnswerLog(path, IDENTITY).close()


def test_what_a_model_is_called_does_not_matter(path: Path) -> None:
    log = AnswerLog(path, IDENTITY)
    log.write(record("a"))
    log.close()
    moved = IDENTITY | {"model": {"name": "elsewhere", "sha256": "a"}}
    AnswerLog(path, moved).close()


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_text(json.dumps({"id": 3}) + "\n")
    for opening in (answered, lambda p: AnswerLog(p, IDENTITY)):
        with pytest.raises(ElfError, match=r"line 1: no `id`, so it is no answer of Elf's; name"):
            opening(path)
    path.write_text("{}\nnonsense\n{}\n")
    with pytest.raises(ElfError, match=r"line 1: no `id`"):
        answered(path)
    path.write_text(json.dumps(record("a")) + "\nnonsense\n")
    with pytest.raises(ElfError, match=r"line 2: not a JSON object; mend or delete that line"):
        answered(path)


def test_journals_are_taken_in_once(path: Path) -> None:
    for rank, keys in ((1, "bd"), (2, "cd")):
        part = AnswerLog(journal(path, rank), IDENTITY)
        part.write(*map(record, keys))
        part.close()
    torn = journal(path, 2)
    torn.write_bytes(torn.read_bytes() + b'{"id": "e"')
    assert answered(path).keys() == set("bcd")
    log = AnswerLog(path, IDENTITY)
    log.write(record("a"))
    log.take_in()
    log.take_in()
    log.finish("abcd", [])
    log.close()
    assert ids(path) == list("abcd")
    left = {each.name for each in path.parent.iterdir()}
    assert left == {path.name, f".{path.name}.lock"}


def test_a_journal_of_another_run_is_refused(path: Path) -> None:
    part = AnswerLog(journal(path, 1), IDENTITY | {"adapter": None})
    part.write(record("a", adapter=None))
    part.close()
    log = AnswerLog(path, IDENTITY)
    with pytest.raises(ElfError, match=r"its answers are of another adapter \(none, and this run"):
        log.take_in()
    log.close()


def test_the_end_puts_lines_in_their_order(path: Path) -> None:
    log = AnswerLog(path, IDENTITY)
    log.write(*map(record, "xcab"))
    log.finish("abc", [{"id": "d", "reason": "too long"}])
    assert ids(path) == list("abcx")
    assert read_log(quarantine(path)) == [{"id": "d", "reason": "too long"}]
    log.write(record("d"))
    before = path.stat().st_ino
    log.finish("abcx", [])
    log.close()
    assert path.stat().st_ino == before  # in order already: left alone
    assert not quarantine(path).exists()


def test_what_a_kill_left_beside_it_goes(path: Path) -> None:
    left = path.with_name(f".{path.name}.abcd.tmp")
    left.write_text("half")
    AnswerLog(path, IDENTITY).close()
    assert not left.exists()


def test_a_second_writer_is_refused(path: Path) -> None:
    log = AnswerLog(path, IDENTITY)
    with pytest.raises(ElfError, match="is being written by another process"):
        AnswerLog(path, IDENTITY)
    log.close()


@pytest.mark.fault(7)
def test_a_full_disk_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    log = AnswerLog(path, IDENTITY)
    log.write(record("a"))
    monkeypatch.setattr("elf.files.AppendLog.append", full)
    with pytest.raises(ElfError, match=r"write \(No space left on device\); 1 answer is safe: ma"):
        log.write(record("b"))
    log.close()
    assert ids(path) == ["a"]
