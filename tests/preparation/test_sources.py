"""What a picture is trained with: the label file first, the manifest's sentence beside it."""

import json
from pathlib import Path

import pytest

from elf.images import picture_id
from elf.preparation.labelled import read_labelled
from elf.preparation.sets import PictureSet
from elf.rename import rename

KEY = "0123456789abcdef"
SENTENCE = "A boy in a forest."


def captions(
    folder: Path, label: str | None, kind: str, caption: str | None = SENTENCE
) -> list[str]:
    record = {"id": KEY, "path": "a.png", "tags": ["x"], "caption": caption}
    (folder / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    if label is not None:
        (folder / f"{KEY}.txt").write_text(label)
    (folder / "pictures").mkdir()
    found, dropped = read_labelled(
        PictureSet(str(folder / "pictures"), labels=str(folder), caption=kind)
    )
    assert len(found) + len(dropped) == 1
    return [source.caption for source in found]


@pytest.mark.parametrize(
    ("kind", "label", "expected"),
    [
        ("tags", "wood_elf, 1boy\n", ["wood_elf, 1boy"]),
        ("sentence", "wood_elf, 1boy\n", [SENTENCE]),
        ("both", "wood_elf, 1boy\n", [f"wood_elf, 1boy, {SENTENCE}"]),
        # the label holds the sentence already (rules.text: both): it is not said twice
        ("both", f"wood_elf, 1boy, {SENTENCE}\n", [f"wood_elf, 1boy, {SENTENCE}"]),
        ("tags", None, []),
        ("both", None, []),
    ],
)
def test_captions(tmp_path: Path, kind: str, label: str | None, expected: list[str]) -> None:
    assert captions(tmp_path, label, kind) == expected


def test_without_a_sentence_there_is_no_caption_of_that_kind(tmp_path: Path) -> None:
    assert captions(tmp_path, "wood_elf\n", "sentence", caption=None) == []


def test_pictures_that_were_renamed_after_they_were_labelled_are_found(tmp_path: Path) -> None:
    pictures, labels = tmp_path / "raw", tmp_path / "labels"
    labels.mkdir()
    lines = []
    for name in ("a.png", "sub/b.png", "gone.png"):
        path = pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        key = picture_id(path.read_bytes())
        lines.append(json.dumps({"id": key, "path": name, "tags": ["x"]}))
        (labels / f"{key}.txt").write_text("x\n")
    (labels / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    (pictures / "gone.png").unlink()
    rename(pictures)
    found, dropped = read_labelled(PictureSet(str(pictures), labels=str(labels)))
    assert not dropped
    paths = {source.id: source.path for source in found}
    assert paths == {
        picture_id(b"a.png"): f"{picture_id(b'a.png')}.png",
        picture_id(b"sub/b.png"): f"sub/{picture_id(b'sub/b.png')}.png",
        picture_id(b"gone.png"): "gone.png",  # load() says what is wrong with it
    }
