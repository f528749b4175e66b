import errno
import json
import os
import subprocess
import sys

import pytest

import elf.files
from elf.counted import counted
from elf.errors import ElfError
from elf.files import read_log
from elf.labels.labeltext import label_text
from elf.labels.manifest import PENDING, LabelFolder
from elf.labels.records import labelled_ids


def record(number, **more):
    return {
        "id": f"{number:016x}",
        "path": f"{number}.png",
        "tags": ["wood_elf", f"t{number}"],
    } | more


def files(folder):
    """The folder's visible files by name; locks stay behind and hold a pid."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")
    }


def label(folder, numbers, **more):
    labels = LabelFolder(folder)
    for number in numbers:
        labels.write(record(number, **more))
    labels.finish()
    labels.close()


def test_a_text_file_and_a_line_for_each_picture(tmp_path):
    label(tmp_path, range(3))
    assert read_log(tmp_path / "manifest.jsonl") == [record(number) for number in range(3)]
    assert (tmp_path / f"{1:016x}.txt").read_bytes() == b"wood_elf, t1\n"
    assert labelled_ids(tmp_path) == {f"{number:016x}" for number in range(3)}
    assert len(files(tmp_path)) == 4


def test_an_id_is_written_once_a_run(tmp_path):
    labels = LabelFolder(tmp_path)
    assert labels.write(record(1)) == [True]
    assert labels.write(record(1, path="copy.png")) == [False]
    labels.close()
    assert read_log(tmp_path / "manifest.jsonl") == [record(1)]


def test_what_decisions_drop_is_known(tmp_path):
    label(tmp_path, range(3))
    lines = [{"id": f"{n:016x}", "keep": keep} for n, keep in ((1, False), (2, True), (9, False))]
    (tmp_path / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    labels = LabelFolder(tmp_path)
    assert labels.dropped == {f"{1:016x}"}
    labels.close()


def test_relabelling_replaces_records_in_their_places(tmp_path):
    label(tmp_path, range(4))
    label(tmp_path, [2, 7, 1], tags=["new"])
    found = [
        (entry["id"][-1], entry["tags"][-1]) for entry in read_log(tmp_path / "manifest.jsonl")
    ]
    assert found == [("0", "t0"), ("1", "new"), ("2", "new"), ("3", "t3"), ("7", "new")]
    assert (tmp_path / f"{2:016x}.txt").read_text() == "new\n"
    assert PENDING not in files(tmp_path)


@pytest.mark.fault(1)
def test_relabelling_that_was_killed_is_settled_at_the_next_start(tmp_path):
    label(tmp_path, range(4))
    (tmp_path / PENDING).write_text(json.dumps(record(2, tags=["new"])) + '\n{"id": "')
    label(tmp_path, [])
    assert [entry["tags"][-1] for entry in read_log(tmp_path / "manifest.jsonl")] == [
        *("t0", "t1", "new", "t3")
    ]


@pytest.mark.fault(1)
def test_what_a_kill_left_is_mended(tmp_path):
    label(tmp_path, range(4))
    whole = files(tmp_path)
    (tmp_path / f"{3:016x}.txt").unlink()
    (tmp_path / f".{9:016x}.txt.abc_12.tmp").write_text("half")
    (tmp_path / ".manifest.jsonl.abc_12.tmp").write_text("half")
    (tmp_path / ".other.tmp").write_text("somebody else's")
    with open(tmp_path / "manifest.jsonl", "ab") as file:
        file.write(b'{"id": "00000000')
    label(tmp_path, [])
    assert files(tmp_path) == whole | {".other.tmp": b"somebody else's"}


def test_a_torn_manifest_is_completed_to_the_same_bytes(tmp_path):
    label(tmp_path, range(5))
    whole = files(tmp_path)
    data = whole["manifest.jsonl"]
    last_three = sum(map(len, data.splitlines(keepends=True)[-3:]))
    for cut in range(len(data) - last_three, len(data)):
        (tmp_path / "manifest.jsonl").write_bytes(data[:cut])
        label(tmp_path, [n for n in range(5) if f"{n:016x}" not in labelled_ids(tmp_path)])
        assert files(tmp_path) == whole, cut


@pytest.mark.parametrize("key", ["../../escaped", "A" * 16, "", None, 7])
def test_an_id_that_is_none_is_refused(tmp_path, key):
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"id": key, "tags": []}) + "\n")
    message = r"manifest.jsonl, line 1: no `id` of 16 hex digits; mend that line"
    with pytest.raises(ElfError, match=message):
        LabelFolder(tmp_path)
    with pytest.raises(ElfError, match=message):
        labelled_ids(tmp_path)


def bad(path, reason="damaged"):
    return {"id": "", "path": path, "sha256": "", "reason": reason}


def test_the_quarantine_holds_the_failures_of_the_last_whole_run(tmp_path):
    runs = [["b", "a"], ["a", "b"], ["b"], []]
    for failing in runs:
        labels = LabelFolder(tmp_path)
        for path in failing:
            labels.quarantine(bad(path))
        labels.finish()
        labels.close()
        assert read_log(tmp_path / "quarantine.jsonl") == [bad(path) for path in sorted(failing)]
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_a_run_that_was_stopped_adds_to_the_quarantine_without_doubling(tmp_path):
    for failing in (["a"], ["a", "b"], []):
        labels = LabelFolder(tmp_path)
        for path in failing:
            labels.quarantine(bad(path))
        labels.close()
    assert read_log(tmp_path / "quarantine.jsonl") == [bad("a"), bad("b")]


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path):
    labels = LabelFolder(tmp_path)
    with pytest.raises(ElfError, match=rf"is being written by another process \(pid {os.getpid()}"):
        LabelFolder(tmp_path)
    labels.write(record(1))
    labels.close()
    LabelFolder(tmp_path).close()


@pytest.mark.fault(7)
def test_a_disk_that_fills_at_any_write_stops_cleanly_and_a_rerun_completes(tmp_path, monkeypatch):
    """Every system call that writes fails once, in turn, from the first to the last."""
    label(tmp_path / "whole", range(3))
    whole = files(tmp_path / "whole")
    failures = 0
    for number in range(200):
        folder = tmp_path / str(number)
        calls = 0

        def failing(real, limit=number):
            def call(*args, **options):
                nonlocal calls
                calls += 1
                if calls == limit + 1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(os.fsync))
            patch.setattr(os, "replace", failing(os.replace))
            writing = failing(open)
            patch.setattr(
                elf.files,
                "open",
                lambda path, mode="r", writing=writing, **options: (
                    writing(path, mode) if mode == "wb" else open(path, mode, **options)
                ),
                raising=False,
            )
            patch.setattr(elf.files.tempfile, "mkstemp", failing(elf.files.tempfile.mkstemp))
            labels = None
            try:
                labels = LabelFolder(folder)
                for key in range(3):
                    labels.write(record(key))
                    labels.sync()
                labels.finish()
                labels.close()
            except ElfError as error:
                failures += 1
                safe = len(labels.ids) if labels else 0
                told = counted(safe, "label is", "labels are")
                assert f"could not write (No space left on device); {told} safe: " in str(error)
                assert "make room, then run the same command again to go on" in str(error)
                if labels:
                    labels.close()
            else:
                break
        held = labelled_ids(folder)
        assert len(held) >= safe
        label(folder, [key for key in range(3) if f"{key:016x}" not in held])
        assert files(folder) == whole, number
    assert failures > 9


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
def test_a_real_limit_on_the_manifests_size(tmp_path):
    code = (
        "import resource, signal, sys\n"
        "from elf.errors import ElfError\n"
        "from elf.labels.manifest import LabelFolder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "labels = LabelFolder(sys.argv[1])\n"
        "try:\n"
        "    for n in range(100):\n"
        "        labels.write({'id': f'{n:016x}', 'tags': ['tag'] * 9})\n"
        "except ElfError as error:\n"
        "    print(len(labels.ids), error)\n"
        "labels.close()\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    safe, message = run.stdout.split(" ", 1)
    assert f"could not write (File too large); {safe} labels are safe: make room" in message
    assert len(read_log(tmp_path / "manifest.jsonl")) == int(safe) > 3
    assert (tmp_path / "manifest.jsonl").read_bytes().endswith(b"}\n")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ElfError, match=r"file/labels: could not write \(Not a directory\); 0 lab"):
        LabelFolder(tmp_path / "file" / "labels")


def test_the_text_of_a_label():
    assert label_text({"tags": ["a", "b c"]}) == "a, b c\n"
