import itertools
import os

import pytest

from elf.labels.labeltext import (
    FEW,
    PAGE,
    Label,
    label_text,
    rewrite_text,
    torn,
    write_text,
    write_texts,
)


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


OLD, SHORT, LONG = b"wood_elf, fern\n", b"wood_elf\n", b"wood_elf, moss, fern\n"


def rewrite(folder, text, held=OLD):
    """Write over the text of a picture; return whether its file is the same one still."""
    path = folder / "ab.txt"
    before = path.stat().st_ino
    tags = text.decode().strip().split(", ")
    rewrite_text(folder, Label({"id": "ab", "tags": tags}, text, held))
    assert path.read_bytes() == text
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []
    return path.stat().st_ino == before and not path.is_symlink()


@pytest.mark.parametrize("text", [SHORT, LONG, OLD])
def test_a_text_is_written_over_in_place(tmp_path, text):
    (tmp_path / "ab.txt").write_bytes(OLD)
    assert rewrite(tmp_path, text)


def test_a_text_that_stays_is_not_touched(tmp_path):
    (tmp_path / "ab.txt").write_bytes(OLD)
    os.utime(tmp_path / "ab.txt", ns=(1, 1))
    rewrite(tmp_path, OLD)
    assert (tmp_path / "ab.txt").stat().st_mtime_ns == 1


def test_what_is_no_simple_file_of_a_known_text_gets_a_new_one(tmp_path):
    path = tmp_path / "ab.txt"
    path.write_bytes(OLD)
    assert not rewrite(tmp_path, SHORT, held=None)
    path.write_bytes(OLD + b"edited meanwhile")
    assert not rewrite(tmp_path, SHORT)
    path.write_bytes(OLD)
    long = b"wood_elf, " + b"x" * PAGE + b"\n"
    assert not rewrite(tmp_path, long)
    assert rewrite(tmp_path, SHORT, held=long)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_second_name_keeps_the_old_text(tmp_path, link):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "ab.txt").write_bytes(OLD)
    (tmp_path / "labels").mkdir()
    link(tmp_path / "backup" / "ab.txt", tmp_path / "labels" / "ab.txt")
    assert not rewrite(tmp_path / "labels", SHORT)
    assert (tmp_path / "backup" / "ab.txt").read_bytes() == OLD


@pytest.mark.parametrize("failing", ["open", "write", "ftruncate"])
def test_a_file_that_cannot_be_written_over_is_replaced(tmp_path, monkeypatch, failing):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "ab.txt").write_bytes(OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, refuse)
        rewrite_text(tmp_path, Label({"id": "ab", "tags": ["wood_elf"]}, SHORT, OLD))
    assert (tmp_path / "ab.txt").read_bytes() == SHORT


def texts(length, letters):
    """Texts of about a length."""
    return [letters[n % 2] * (length + n) + b"\n" for n in (0, 1, 40)]


@pytest.mark.parametrize("length", [20, 500, 1024, 4000])
def test_what_an_interruption_may_leave_is_known(length):
    for old, new in itertools.product(texts(length, (b"a", b"b")), texts(length, (b"c", b"d"))):
        assert torn(old, old, new) and torn(new, old, new)
        written = new + old[len(new) :]
        assert torn(written, old, new)  # killed before the file was cut
        sizes = {len(old), len(new)}
        sectors = range(0, max(sizes), 512)
        for size, kept in itertools.product(sizes, itertools.product((old, written), repeat=2)):
            mixed = b"".join(kept[at // 512 % 2][at : at + 512] for at in sectors)[:size]
            if len(mixed) == size:  # else the file's end is zeros
                assert torn(mixed, old, new)


def test_what_somebody_typed_is_not_torn():
    old, new = b"wood_elf, fern, moss\n", b"wood_elf, moss, oak, fern\n"
    tags = ["wood_elf", "fern", "moss", "oak"]
    typed = {
        ", ".join(some) + end
        for count in range(1, 5)
        for some in itertools.permutations(tags, count)
        for end in ("\n", "", "\n\n", " \n")
    }
    typed -= {old.decode(), new.decode()}
    assert len(typed) > 200
    assert [text for text in typed if torn(text.encode(), old, new)] == []
