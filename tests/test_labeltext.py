import pytest

from elf.labeltext import label_text, write_text


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tags", "wood_elf, fern\n"),
        ("caption", "wood_elf, A fern, and moss.\n"),
        ("both", "wood_elf, fern, A fern, and moss.\n"),
    ],
)
def test_tags_caption_or_both(kind, expected):
    record = {
        "tags": ["wood_elf", "fern"], "caption": "A fern,\n and moss.",
        "attributes": {"text": kind, "trigger": "wood_elf"},
    }  # fmt: skip
    assert label_text(record) == expected
    record["caption"] = None
    assert label_text(record) == "wood_elf, fern\n"


def test_a_caption_without_a_trigger():
    attributes = {"text": "caption", "trigger": ""}
    assert label_text({"tags": [], "caption": "A fern", "attributes": attributes}) == "A fern\n"


def test_old_records_have_tags_alone():
    assert label_text({"tags": ["a", "b c"]}) == "a, b c\n"


def test_a_text_that_holds_the_same_is_not_written_again(tmp_path):
    record = {"id": "ab", "tags": ["a"]}
    write_text(tmp_path, record)
    before = (tmp_path / "ab.txt").stat()
    write_text(tmp_path, record)
    assert (tmp_path / "ab.txt").stat().st_ino == before.st_ino
    write_text(tmp_path, record | {"tags": ["b"]})
    assert (tmp_path / "ab.txt").read_text() == "b\n"
    assert [path.name for path in tmp_path.iterdir()] == ["ab.txt"]
