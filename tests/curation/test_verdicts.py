"""Proposals and choices become decisions; a person's decision wins over both."""

import json

import pytest

from elf.curation.verdicts import BY, Verdict, accept, apply_file, read_verdicts
from elf.errors import ElfError
from elf.files import read_log
from elf.labels.decisions import add_decisions, read_decisions

A, B, C, D = (f"{number:016x}" for number in range(4))


def lines(labels):
    return read_log(labels / "decisions.jsonl")


def test_accepted_proposals_are_decisions_with_a_reason(tmp_path):
    labels = tmp_path / "labels"
    assert accept(labels, {A: "blurry: 0.90", B: None}, {}) == 1
    assert lines(labels) == [{"id": A, "keep": False, "by": BY, "reason": "blurry: 0.90"}]
    assert read_decisions(labels) == {A: {"keep": False}}
    assert read_verdicts(labels) == {A: Verdict(keep=False, by_person=False)}
    assert accept(labels, {A: "blurry: 0.90", B: None}, read_verdicts(labels)) == 0


def test_accepted_proposals_follow_what_is_proposed_later(tmp_path):
    accept(tmp_path, {A: "like b", B: "dark"}, {})
    assert accept(tmp_path, {A: None, B: "dark"}, read_verdicts(tmp_path)) == 1
    assert read_decisions(tmp_path) == {B: {"keep": False}}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_a_persons_decision_wins(tmp_path, keep, before):
    person = {"id": A, "keep": keep}
    if before:
        add_decisions(tmp_path, [person])
    accept(tmp_path, {A: "dark"}, read_verdicts(tmp_path))
    if not before:
        add_decisions(tmp_path, [person])
    for proposal in ("dark", None):
        assert accept(tmp_path, {A: proposal}, read_verdicts(tmp_path)) == 0
    assert read_verdicts(tmp_path) == {A: Verdict(keep, by_person=True)}


def test_a_person_who_takes_a_decision_back_leaves_it_to_the_proposals(tmp_path):
    add_decisions(tmp_path, [{"id": A, "keep": True}, {"id": A, "keep": None}])
    assert read_verdicts(tmp_path) == {}
    assert accept(tmp_path, {A: "dark"}, {}) == 1


def test_edits_of_tags_are_no_verdicts(tmp_path):
    add_decisions(tmp_path, [{"id": A, "tags": ["elf"]}, {"id": B, "keep": False, "caption": "x"}])
    assert read_verdicts(tmp_path) == {B: Verdict(False, True)}


def test_choices_are_applied_once(tmp_path):
    labels, file = tmp_path / "labels", tmp_path / "elf-decisions.jsonl"
    add_decisions(labels, [{"id": C, "keep": True}, {"id": D, "keep": False}])
    accept(labels, {A: "dark"}, read_verdicts(labels))
    choices = [(A, False), (B, True), (C, True), (D, None), (B, False)]
    saved = [json.dumps({"id": key, "keep": keep, "path": "x"}) for key, keep in choices]
    file.write_text("\n".join(saved))
    # A is confirmed, B's last choice counts, C holds already, D is taken back
    assert apply_file(labels, file) == (3, 4)
    assert read_verdicts(labels) == {
        A: Verdict(False, True), B: Verdict(False, True), C: Verdict(True, True)
    }  # fmt: skip
    assert apply_file(labels, file) == (0, 4)
    assert accept(labels, {A: None, B: None}, read_verdicts(labels)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            json.dumps({"id": A, "keep": True, "tags": []}),
            r"line 2: has 'tags': no choice of a con",
        ),
        ('{"id": "../x", "keep": true}', r"line 2: has no `id` of 16 hex digits: no choice"),
        ('{"id": ["a"], "keep": true}', r"line 2: has no `id` of 16 hex digits"),
        ('{"keep": true}', r"line 2: has no `id` of 16 hex digits"),
        (json.dumps({"id": A, "keep": 1}), r"line 2: `keep` must be true, false or null"),
        (json.dumps({"id": A}), r"line 2: `keep` must be true, false or null"),
        ("nonsense\n", r"line 2: not a JSON object; mend or delete that line"),
    ],
)
def test_a_file_of_anything_else_is_refused_as_a_whole(tmp_path, text, message):
    file = tmp_path / "file.jsonl"
    file.write_text(json.dumps({"id": B, "keep": False}) + f"\n{text}\n")
    with pytest.raises(ElfError, match=message):
        apply_file(tmp_path / "labels", file)
    assert not (tmp_path / "labels").exists()


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(ElfError, match=r"apply: no file .*nope; save it from the contact"):
        apply_file(tmp_path, tmp_path / "nope")

    def refusing(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("elf.curation.verdicts.read_log", refusing)
    (tmp_path / "file").touch()
    with pytest.raises(ElfError, match=r"apply: .*file could not be read \(Permission denied\)"):
        apply_file(tmp_path, tmp_path / "file")
