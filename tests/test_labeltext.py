import pytest

from elf.labeltext import FEW, label_text, write_text, write_texts


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


@pytest.mark.parametrize("count", [3, FEW + 5])
def test_many_texts_are_written_as_one_is(tmp_path, count):
    records = [{"id": f"{n:016x}", "tags": ["wood_elf", f"t{n}"]} for n in range(count)]
    write_texts(tmp_path, records)
    for record in records:
        assert (tmp_path / f"{record['id']}.txt").read_text() == label_text(record)
    assert len(list(tmp_path.iterdir())) == count


def test_one_of_many_that_cannot_be_written_is_an_error(tmp_path):
    records = [{"id": f"{n:016x}", "tags": ["wood_elf"]} for n in range(FEW + 5)]
    (tmp_path / f"{records[-1]['id']}.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_texts(tmp_path, records)
