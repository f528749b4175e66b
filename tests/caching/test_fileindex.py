import json
import os
import time

import pytest

import elf.caching.fileindex
from elf.caching.fileindex import FileIndex
from elf.files import sha256_file


@pytest.fixture
def picture(tmp_path):
    return old(tmp_path / "a.png", b"one")


def old(path, data):
    """Write a file that was last changed a minute ago."""
    path.write_bytes(data)
    moment = time.time_ns() - 60 * 10**9
    os.utime(path, ns=(moment, moment))
    return path


def reading(monkeypatch):
    opened = []
    monkeypatch.setattr(
        elf.caching.fileindex,
        "sha256_file",
        lambda path: opened.append(path.name) or sha256_file(path),
    )
    return opened


def test_an_unchanged_file_is_not_opened_again(tmp_path, picture, monkeypatch):
    opened = reading(monkeypatch)
    for _ in range(3):
        index = FileIndex(tmp_path / "cache")
        assert index.sha256(picture) == sha256_file(picture)
        assert index.lookup(picture) == sha256_file(picture)
        index.close()
    assert opened == ["a.png"]


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_is_read_again(tmp_path, picture, change):
    index = FileIndex(tmp_path / "cache")
    before = index.sha256(picture)
    if change == "size":
        status = picture.stat()
        picture.write_bytes(b"longer")
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        picture.write_bytes(b"two")
    assert index.lookup(picture) is None
    assert index.sha256(picture) == sha256_file(picture) != before
    index.close()


def test_a_file_that_may_still_change_within_the_clocks_tick_is_not_remembered(tmp_path, picture):
    index = FileIndex(tmp_path / "cache")
    now = time.time_ns()
    for moment in (now + 10**9, now // 10**9 * 10**9):  # in the tick; whole seconds: a coarse clock
        os.utime(picture, ns=(moment, moment))
        index.sha256(picture)
        assert index.lookup(picture) is None
    index.close()


def test_a_file_that_is_gone_is_unknown(tmp_path, picture):
    index = FileIndex(tmp_path / "cache")
    index.sha256(picture)
    picture.unlink()
    assert index.lookup(picture) is None
    with pytest.raises(OSError):
        index.sha256(picture)
    index.close()


def test_two_processes_write_two_logs_and_read_both(tmp_path, picture):
    other = old(tmp_path / "b.png", b"two")
    first, second = FileIndex(tmp_path / "cache"), FileIndex(tmp_path / "cache")
    first.sha256(picture)
    second.sha256(other)
    first.close(), second.close()
    assert len(list((tmp_path / "cache").glob("files-*.jsonl"))) == 2
    both = FileIndex(tmp_path / "cache")
    assert both.lookup(picture) and both.lookup(other)


@pytest.mark.parametrize("name", ["models", "modèles", 'mo"dels'])
def test_what_is_known_of_some_folders_alone_is_read(tmp_path, picture, monkeypatch, name):
    (tmp_path / name).mkdir()
    model = old(tmp_path / name / "model.onnx", b"weights")
    index = FileIndex(tmp_path / "cache")
    index.sha256(picture), index.sha256(model)
    index.close()
    opened = reading(monkeypatch)
    monkeypatch.chdir(tmp_path)
    index = FileIndex(tmp_path / "cache", within=["elsewhere", name])
    assert index.sha256(model) == sha256_file(model) and opened == []
    assert index.lookup(picture) is None
    index.close()


@pytest.mark.parametrize("damage", [b"nonsense\n", b'{"path": 1}\n', b'{"pa'])
def test_a_damaged_log_costs_only_reading_again(tmp_path, picture, damage):
    index = FileIndex(tmp_path / "cache")
    index.sha256(picture)
    index.close()
    log = tmp_path / "cache" / "files-000.jsonl"
    whole = json.loads(log.read_bytes())
    log.write_bytes(damage)
    index = FileIndex(tmp_path / "cache")
    assert index.sha256(picture) == whole["sha256"]
    index.close()


def test_a_full_disk_does_not_stop_a_run(tmp_path, picture, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(elf.caching.fileindex.AppendLog, "append", full)
    index = FileIndex(tmp_path / "cache")
    assert index.sha256(picture) == sha256_file(picture)
    index.close()
