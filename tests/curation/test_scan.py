"""A folder is looked at once; what went wrong has a reason; what did not change is not opened."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

import elf.caching.fileindex
from elf.curation import scan as module
from elf.curation.facts import VERSION
from elf.curation.scan import Scanner, Thumbnails
from elf.images import BadImage, picture_id


def age(root):
    """Let new files be a minute old, as files mostly are."""
    moment = time.time_ns() - 60 * 10**9
    for path in root.rglob("*"):
        if path.stat().st_mtime_ns > moment + 30 * 10**9:
            os.utime(path, ns=(moment, moment))


@pytest.fixture
def root(tmp_path, scene, saved):
    folder = tmp_path / "raw"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(saved(scene(0)))
    (folder / "sub" / "copy.png").write_bytes(saved(scene(0)))
    (folder / "sub" / "deep" / "b.JPG").write_bytes(saved(scene(1), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"nonsense")
    (folder / "cut.png").write_bytes(saved(scene(2))[:5000])
    (folder / ".hidden.png").write_bytes(saved(scene(3)))
    (folder / "notes.txt").write_text("no picture")
    age(folder)
    return folder


def scan(root, thumbnails=None):
    cache = root.parent / "cache"
    scanner = Scanner(root, cache, cache, thumbnails)
    try:
        return scanner.scan()
    finally:
        scanner.close()


def never(*_, **__):
    raise AssertionError("a picture was opened")


def test_what_is_in_a_folder(root, scene, saved):
    found = scan(root)
    assert [picture.paths for picture in found.pictures] == [
        ("a.png", "sub/copy.png"), ("sub/deep/b.JPG",)
    ]  # fmt: skip
    assert [picture.id for picture in found.pictures] == [
        picture_id(saved(scene(0))), picture_id(saved(scene(1), "JPEG"))
    ]  # fmt: skip
    assert set(found.bad) == {"broken.jpg", "cut.png"}
    assert found.bad["broken.jpg"].startswith("not a picture of a known format")
    assert found.bad["cut.png"].startswith("damaged (")
    assert found.opened == 5


def test_an_unchanged_folder_is_not_opened_again(root, monkeypatch):
    first = scan(root)
    monkeypatch.setattr(elf.caching.fileindex, "sha256_file", never)
    monkeypatch.setattr(module.Scanner, "_open", never)
    monkeypatch.setattr(module, "look_at", never)
    again = scan(root)
    assert (again.pictures, again.bad, again.opened) == (first.pictures, first.bad, 0)


def test_only_what_changed_is_looked_at(root, scene, saved, monkeypatch):
    scan(root)
    (root / "a.png").write_bytes(saved(scene(4)))  # another picture now; its copy stays
    (root / "sub" / "deep" / "b.JPG").rename(root / "renamed.jpg")  # only hashed again
    (root / "cut.png").write_bytes(saved(scene(2)))  # mended
    age(root)
    looked, real = [], module.look_at
    monkeypatch.setattr(
        module, "look_at", lambda data: looked.append(picture_id(data)) or real(data)
    )
    found = scan(root)
    assert sorted(looked) == sorted([picture_id(saved(scene(4))), picture_id(saved(scene(2)))])
    assert [picture.paths for picture in found.pictures] == [
        ("a.png",), ("cut.png",), ("renamed.jpg",), ("sub/copy.png",)
    ]  # fmt: skip
    assert found.opened == 3 and set(found.bad) == {"broken.jpg"}


def test_the_name_that_is_the_id_is_shown_first(root, scene, saved):
    key = picture_id(saved(scene(0)))
    (root / "sub" / "copy.png").rename(root / "sub" / f"{key}.png")
    assert scan(root).pictures[-1].paths == (f"sub/{key}.png", "a.png")


def test_thumbnails_are_made_once_and_again_if_missing_or_torn(root, monkeypatch):
    folder = root.parent / "sheet"
    found = scan(root, Thumbnails(folder))
    paths = [folder / Thumbnails.path(picture.id) for picture in found.pictures]
    before = [path.read_bytes() for path in paths]
    assert all(data.startswith(b"\xff\xd8") for data in before)
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 2
    with monkeypatch.context() as patch:
        patch.setattr(module.Scanner, "_open", never)
        assert scan(root, Thumbnails(folder)).opened == 0
    paths[0].write_bytes(b"")  # a power loss
    paths[1].unlink()
    size = sum(path.stat().st_size for path in (root.parent / "cache").rglob("*.segment"))
    assert scan(root, Thumbnails(folder)).pictures == found.pictures
    assert [path.read_bytes() for path in paths] == before
    after = sum(path.stat().st_size for path in (root.parent / "cache").rglob("*.segment"))
    assert after == size  # no fact is written twice


def test_a_file_that_cannot_be_read_has_a_reason_and_is_tried_again(root, monkeypatch):
    real = elf.caching.fileindex.sha256_file

    def refusing(path):
        if Path(path).name == "b.JPG":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(elf.caching.fileindex, "sha256_file", refusing)
        found = scan(root)
    assert found.bad["sub/deep/b.JPG"] == "could not be read (Permission denied)"
    assert "sub/deep/b.JPG" not in scan(root).bad


def test_a_file_that_changes_while_it_is_read_is_not_kept(root, scene, saved, monkeypatch):
    real = Path.read_bytes

    def changed(path):
        return saved(scene(9)) if path.name == "b.JPG" else real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", changed)
        found = scan(root)
    assert found.bad["sub/deep/b.JPG"] == "changed while it was read; run this again"
    again = scan(root)
    assert {picture.id for picture in again.pictures} >= {picture_id(saved(scene(1), "JPEG"))}
    assert "sub/deep/b.JPG" not in again.bad


@pytest.mark.parametrize(
    "error", [MemoryError(), BadImage("not enough memory to decode it")], ids=["python", "pillow"]
)
def test_a_lack_of_memory_is_not_held_against_a_picture(root, monkeypatch, error):
    def failing(data):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, "look_at", failing)
        found = scan(root)
    assert not found.pictures and len(found.bad) == 5
    assert all("not enough memory" in reason for reason in found.bad.values())
    assert len(scan(root).pictures) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_cache_costs_only_looking_again(root, damage):
    first = scan(root)
    (segment,) = (root.parent / "cache" / f"facts-{VERSION}").glob("*.segment")
    data = bytearray(segment.read_bytes())
    if damage == "cut":
        segment.write_bytes(data[: len(data) - 1000])
    elif damage == "flip":
        data[len(data) // 2] ^= 255
        segment.write_bytes(data)
    else:
        shutil.rmtree(segment.parent)
    again = scan(root)
    assert (again.pictures, again.bad) == (first.pictures, first.bad)
    assert 0 < again.opened <= 5


def test_an_empty_folder(tmp_path):
    (tmp_path / "raw").mkdir()
    found = scan(tmp_path / "raw")
    assert (found.pictures, found.bad, found.opened) == ([], {}, 0)
