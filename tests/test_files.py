import errno
import io
import json
import os
import subprocess
import sys

import pytest

from elf.errors import ElfError
from elf.files import (
    AppendLog,
    FolderLock,
    atomic_path,
    explain_disk_errors,
    parse_line,
    read_log,
    read_small,
    sha256_file,
    write_atomic,
)
from elf.platforms import read_at

RECORDS = [{"id": number, "text": 'Größe, \r\n\u2028 \\ "' * number} for number in range(6)]


def write(path, records=RECORDS):
    with AppendLog(path) as log:
        for record in records:
            log.append(record)
    return path


def test_a_log_gives_back_what_was_appended(tmp_path):
    path = write(tmp_path / "log.jsonl")
    assert read_log(path) == RECORDS
    with AppendLog(path) as log:
        assert log.records == RECORDS
    assert len(path.read_bytes().splitlines()) == len(RECORDS)


def test_a_missing_log_is_empty(tmp_path):
    assert read_log(tmp_path / "log.jsonl") == []


@pytest.mark.fault(4)
def test_a_log_cut_anywhere_in_its_last_three_records_loses_only_the_torn_tail(tmp_path):
    data = write(tmp_path / "whole.jsonl").read_bytes()
    ends = [0]
    for line in data.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    for cut in range(ends[-4], len(data) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(data[:cut])
        # a record is whole with or without its line's end
        expected = RECORDS[: sum(end - 1 <= cut for end in ends[1:])]
        assert read_log(path) == expected, cut
        with AppendLog(path) as log:
            assert log.records == expected, cut
            log.append({"id": "next"})
        assert read_log(path) == [*expected, {"id": "next"}], cut


def test_a_damaged_line_is_never_thrown_away(tmp_path):
    path = tmp_path / "log.jsonl"
    for data in (b'{"id": 1}\n{"id"\n{"id": 3}\n', b'{"id": 1}\n{"id"\n', b'{"id": 1}\n[]\n'):
        path.write_bytes(data)
        message = f"{path}, line 2: not a JSON object; mend or delete that line"
        with pytest.raises(ElfError, match=message):
            read_log(path)
        with pytest.raises(ElfError, match=message):
            AppendLog(path)
        assert path.read_bytes() == data
    path.write_bytes(b'{"id": 1}\n')
    AppendLog(path).close()  # the failure above did not keep the lock


def test_zeros_that_a_power_loss_left_are_a_torn_tail(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"id": 1}\n' + b"\0" * 100)
    AppendLog(path).close()
    assert path.read_bytes() == b'{"id": 1}\n'


def test_parse_line_takes_objects_alone():
    assert parse_line(b'{"a": 1}\n') == {"a": 1}
    assert parse_line(b'{"a": 1') is None
    assert parse_line(b"[" * 100_000) is None  # deeper than the parser goes
    assert parse_line(b"[1]\n") is None
    assert parse_line(b"\xff\n") is None


def test_a_name_that_is_no_unicode_survives(tmp_path):
    record = {"path": os.fsdecode(b"caf\xe9.png")}
    assert read_log(write(tmp_path / "log.jsonl", [record])) == [record]


class FullDisk(io.FileIO):
    """A file that takes so many bytes and then fails; the last write may be short."""

    room = 0

    def write(self, data):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(data[: self.room])
        self.room -= written
        return written


@pytest.mark.fault(7)
def test_a_failed_append_is_rolled_back_at_every_byte(tmp_path):
    record = {"id": 7, "text": "x" * 40}
    length = len(json.dumps(record)) + 1
    for room in range(length):
        path = tmp_path / f"{room}.jsonl"
        write(path)
        before = path.read_bytes()
        with AppendLog(path) as log:
            log._file.close()
            log._file = FullDisk(path, "ab")
            log._file.room = room
            with pytest.raises(OSError, match="No space left"):
                log.append(record)
            assert path.read_bytes() == before
            log._file.room = length  # room was made
            log.append(record)
        assert path.read_bytes() == before + json.dumps(record).encode() + b"\n"


def test_a_log_is_rewritten_atomically(tmp_path, monkeypatch):
    path = write(tmp_path / "log.jsonl")
    with AppendLog(path) as log:
        log.rewrite(RECORDS[:2])
        log.append(RECORDS[5])
        assert read_log(path) == [*RECORDS[:2], RECORDS[5]]

        def fail(*_):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
            patch.setattr(os, "replace", fail)
            log.rewrite([])
        log.append(RECORDS[4])  # and it goes on where it was
    assert read_log(path) == [*RECORDS[:2], RECORDS[5], RECORDS[4]]


def test_what_is_synced_is_not_synced_again(tmp_path, monkeypatch):
    synced = []
    with AppendLog(tmp_path / "log.jsonl") as log:
        monkeypatch.setattr(os, "fsync", synced.append)
        for count in (1, 2):
            log.append({"id": count})
            log.sync(), log.sync()
            assert len(synced) == count

        def fail(_):
            raise OSError(errno.EIO, "Input/output error")

        log.append({"id": 3})
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            log.sync()
        monkeypatch.setattr(os, "fsync", synced.append)
        log.sync()
        assert len(synced) == 3


def test_closing_on_a_failing_disk_releases_the_log(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    log = AppendLog(tmp_path / "log.jsonl")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(os, "fsync", fail)
        log.close()
    AppendLog(tmp_path / "log.jsonl").close()


@pytest.mark.fault(8)
def test_a_second_writer_is_refused_with_the_owners_pid(tmp_path):
    with AppendLog(tmp_path / "log.jsonl"):
        message = rf"written by another process \(pid {os.getpid()}\): wait for it or stop it"
        with pytest.raises(ElfError, match=message):
            AppendLog(tmp_path / "log.jsonl")
    AppendLog(tmp_path / "log.jsonl").close()


def test_a_lock_ends_with_its_owner(tmp_path):
    code = (
        "import sys, os; from elf.files import FolderLock; lock = FolderLock(sys.argv[1]);"
        "print('locked', flush=True); os.kill(os.getpid(), 9)"
    )
    child = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=False)
    assert child.stdout == b"locked\n" and child.returncode != 0
    FolderLock(tmp_path).close()


@pytest.mark.fault(7)
def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a" / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError, match="half-way"), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError("half-way")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    write_atomic(path, b"new")
    assert path.read_text() == "new"


def test_an_atomic_file_gets_the_usual_mode(tmp_path):
    write_atomic(tmp_path / "a", "")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("length", [0, 5, 1 << 14, 40_000])
def test_a_small_file_is_read_whole_and_from_anywhere(tmp_path, length):
    data = bytes(number % 251 for number in range(length))
    (tmp_path / "a").write_bytes(data)
    assert read_small(str(tmp_path / "a")) == data
    with open(tmp_path / "a", "rb", buffering=0) as file:
        assert read_at(file.fileno(), 9, 3) == data[3:12]
        assert read_at(file.fileno(), length + 9, 0) == data
    with pytest.raises(FileNotFoundError):
        read_small(str(tmp_path / "b"))


def test_a_disks_error_is_one_line_that_names_the_file_if_the_error_does(tmp_path):
    with pytest.raises(ElfError) as refusal, explain_disk_errors(tmp_path, "not done", "mend that"):
        raise OSError(errno.EIO, "Input/output error")
    assert str(refusal.value) == f"{tmp_path}: not done (Input/output error); mend that"
    with pytest.raises(ElfError) as refusal, explain_disk_errors(tmp_path, "not done", "mend that"):
        (tmp_path / "none").read_bytes()
    assert str(refusal.value) == f"{tmp_path}/none: not done (No such file or directory); mend that"
    with pytest.raises(BrokenPipeError), explain_disk_errors(tmp_path, "not done", "mend that"):
        raise BrokenPipeError  # `elf curate | head`


def test_sha256_of_a_file(tmp_path):
    write_atomic(tmp_path / "a", "abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_lock_does_not_outlive_its_owner_in_forked_workers(tmp_path):
    program = (
        "import os, sys, time; from elf.files import FolderLock\n"
        "lock = FolderLock(sys.argv[1])\n"
        "ready, begun = os.pipe()\n"
        "worker = os.fork()\n"
        "if not worker: os.write(begun, b'.'), time.sleep(60)\n"
        "os.read(ready, 1)\n"
        "print(worker, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        worker = int(owner.stdout.readline())
        owner.wait()
        try:
            FolderLock(tmp_path).close()
        finally:
            os.kill(worker, 9)
