"""Labels as `elf prepare` reads them: decisions, and pictures that were replaced."""

import json
from pathlib import Path
from typing import Any

import pytest

from elf.errors import ElfError
from elf.images import picture_id
from elf.labels.decisions import apply_decision
from elf.preparation.labelled import read_labelled, read_manifest
from elf.preparation.sets import PictureSet
from elf.preparation.sources import Dropped

LABELS = ("labels/manifest.jsonl", "labels/decisions.jsonl")


class Folder:
    """Pictures (any bytes will do here) and their labels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "labels").mkdir()
        (root / "raw").mkdir()

    def add(self, data: bytes, path: str, decision: dict[str, Any] | None = None) -> str:
        (self.root / "raw" / path).write_bytes(data)
        record = {"id": picture_id(data), "path": path, "tags": ["tok", "cat"], "caption": "A cat."}
        record = apply_decision(record, decision)
        if record["tags"]:
            text = self.root / f"labels/{record['id']}.txt"
            text.write_text(", ".join(record["tags"]))
        self.append(LABELS[0], record)
        return str(record["id"])

    def append(self, log: str, record: dict[str, Any]) -> None:
        with open(self.root / log, "a") as file:
            file.write(json.dumps(record) + "\n")

    @property
    def set(self) -> PictureSet:
        return PictureSet(str(self.root / "raw"), labels=str(self.root / "labels"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("decision", [{"keep": False}, {"tags": ["tok"]}, {"caption": "A dog."}])
def test_a_decision_that_is_not_in_the_labels_yet_is_refused(
    folder: Folder, decision: dict[str, Any]
) -> None:
    folder.add(b"one", "1.png")
    key = folder.add(b"two", "2.png")
    folder.append(LABELS[1], {"id": key} | decision)
    with pytest.raises(ElfError) as refusal:
        read_labelled(folder.set)
    assert str(refusal.value) == (
        f"{folder.root / LABELS[1]}: 1 decision is not in the labels yet (the first is of "
        f"{key}): run `elf predict` again, which brings them in"
    )


def test_one_that_was_taken_back_is_refused_until_the_labels_follow(folder: Folder) -> None:
    key = folder.add(b"one", "1.png", {"keep": False})
    folder.append(LABELS[1], {"id": key, "keep": False})
    assert len(read_manifest(folder.root / "labels")) == 1
    folder.append(LABELS[1], {"id": key, "keep": None})
    with pytest.raises(ElfError, match="1 decision is not in the labels yet"):
        read_manifest(folder.root / "labels")


def test_decisions_that_change_no_label_are_none_to_wait_for(folder: Folder) -> None:
    key = folder.add(b"one", "1.png")
    folder.append(LABELS[1], {"id": key, "keep": True})
    folder.append(LABELS[1], {"id": "0" * 16, "keep": False})
    assert [source.id for source in read_labelled(folder.set)[0]] == [key]


@pytest.mark.parametrize("kind", ["tags", "sentence", "both"])
def test_a_dropped_picture_is_said_to_be_dropped(folder: Folder, kind: Any) -> None:
    folder.add(b"one", "1.png")
    key = folder.add(b"two", "2.png", {"keep": False})
    folder.append(LABELS[1], {"id": key, "keep": False})
    each = PictureSet(folder.set.pictures, labels=folder.set.labels, caption=kind)
    assert read_labelled(each)[1] == [Dropped("2.png", "dropped by a decision")]


def test_of_two_records_of_a_name_the_one_of_its_bytes_counts(folder: Folder) -> None:
    old, new = folder.add(b"old", "1.png"), folder.add(b"new", "1.png")
    sources, dropped = read_labelled(folder.set)
    assert [source.id for source in sources] == [new]
    assert dropped == [Dropped("1.png", "another picture has its name now")]
    (folder.root / "raw/1.png").write_bytes(b"old")  # and back again
    assert [source.id for source in read_labelled(folder.set)[0]] == [old]


def test_one_that_was_edited_under_its_id_is_another_picture(folder: Folder) -> None:
    name = f"{picture_id(b'old')}.png"  # as `elf rename` calls it
    folder.add(b"old", name)
    new = folder.add(b"new", name)
    sources, dropped = read_labelled(folder.set)
    assert [source.id for source in sources] == [new]
    assert dropped == [Dropped(name, "another picture has its name now")]


def test_a_replaced_picture_that_lies_elsewhere_is_found_there(folder: Folder) -> None:
    old, new = folder.add(b"old", "1.png"), folder.add(b"new", "1.png")
    (folder.root / f"raw/{old}.png").write_bytes(b"old")
    sources, dropped = read_labelled(folder.set)
    assert {source.id: source.path for source in sources} == {old: f"{old}.png", new: "1.png"}
    assert not dropped


def test_an_unlabelled_picture_that_cannot_be_read_is_no_error(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add(b"one", "1.png")
    (folder.root / "raw/2.png").write_bytes(b"two")
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "2.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert read_labelled(folder.set)[1] == [Dropped("2.png", "not labelled")]


def test_a_picture_in_quarantine_is_dropped_with_the_reason_that_stands_there(
    folder: Folder,
) -> None:
    folder.add(b"one", "1.png")
    (folder.root / "raw/2.png").write_bytes(b"two")
    note = {"path": "2.png", "reason": "no picture, or one that cannot be read"}
    notes = [{"path": ["2.png"], "reason": "a path that is none"}, note]
    (folder.root / "labels/quarantine.jsonl").write_text("\n".join(map(json.dumps, notes)) + "\n")
    wanted = Dropped("2.png", "not labelled, no picture, or one that cannot be read")
    assert read_labelled(folder.set)[1] == [wanted]
