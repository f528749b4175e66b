"""Faults 2, 7 and 8 of elf/files.py, by which all else is written."""

import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from itertools import count

import pytest

from elf.errors import ElfError
from elf.files import AppendLog, FolderLock, read_log
from elf.labels.manifest import LabelFolder

OLD = [{"id": number, "text": "alt " * number} for number in range(4)]
NEW = [*OLD[:2], *({"id": number, "text": "größer " * 3 * number} for number in range(4, 9))]


def lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


@pytest.fixture
def folder(tmp_path):
    """One that is written; the log of what was said lies elsewhere."""
    return tmp_path / "folder"


@pytest.mark.fault(2, 7)
@pytest.mark.parametrize("way", ["write_atomic", "replace_file", "rewrite"])
def test_a_file_is_the_old_or_the_new_whatever_operation_fails(
    writers, folder, way, fault, figures
):
    for at in count(1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "records.jsonl").write_bytes(lines(OLD))
        arguments = (way, folder, json.dumps(NEW))
        ending = writers.run(*arguments, below=folder, fault=fault.letter, at=at)
        found = read_log(folder / "records.jsonl")
        assert found in (OLD, NEW)
        assert found == NEW or ending.code != 0
        assert ending.code in (0, -9) or "OSError: [Errno" in ending.said, ending.said
        assert ending.code == -9 or not list(folder.glob(".*.tmp")), "nothing half-written stays"
        if not ending.met:
            break
        assert not fault.harmless or ending.code == 0, ending.said
        assert writers.run(*arguments).code == 0
        assert read_log(folder / "records.jsonl") == NEW
    assert at > (1 if fault.harmless else 2)
    figures(operations=at - 1, mixtures=0)


@pytest.mark.fault(7)
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_a_log_keeps_what_it_acknowledged_whatever_operation_fails(
    writers, folder, torn, fault, figures
):
    for at in count(1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "records.jsonl").write_bytes(lines(OLD) + (lines(NEW[-1:])[:-9] if torn else b""))
        arguments = ("append", folder, json.dumps([*OLD, *NEW]))
        ending = writers.run(*arguments, below=folder, fault=fault.letter, at=at)
        acknowledged = [
            json.loads(line) for line in ending.said.splitlines() if line.startswith("{")
        ]
        found, added = read_log(folder / "records.jsonl"), NEW[2:]
        assert found[:4] == OLD and found[4:] == added[: len(found) - 4]
        assert acknowledged == added[: len(acknowledged)] and len(acknowledged) <= len(found) - 4
        if ending.code != -9:
            rest = (folder / "records.jsonl").read_bytes()[len(lines(found)) :]
            assert not rest or (torn and not acknowledged), "a failed append is rolled back"
        if not ending.met:
            break
        assert not fault.harmless or ending.code == 0, ending.said
        assert writers.run(*arguments).code == 0
        assert read_log(folder / "records.jsonl") == [*OLD, *added], "none is lost or doubled"
    assert at > (4 if fault.harmless else 8)
    figures(operations=at - 1, lost=0, doubled=0)


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    "kills", [50, pytest.param(1000, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))]
)
def test_writers_killed_at_random_instants(writers, folder, kills, figures):
    kills, draw = figures.part(kills), random.Random(0)
    lost = doubled = torn = 0
    acknowledged = set()
    for number in range(kills):
        if number % 25 == 0:  # a log that grows makes each start slower
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            acknowledged = set()
        ending = writers.run("for ever", folder, "[]", kill_after=draw.uniform(0.002, 0.04))
        assert ending.code == -9, ending.said
        said = [line for line in ending.said.splitlines(keepends=True) if line.endswith("}\n")]
        acknowledged |= {json.loads(line)["id"] for line in said}
        ids = [record["id"] for record in read_log(folder / "log.jsonl")]
        lost += len(acknowledged - set(ids))
        doubled += len(ids) - len(set(ids))
        file = folder / "file"
        torn += file.exists() and file.read_text() not in ("0" * 50_000, "1" * 50_000)
        assert lost == doubled == torn == 0
    assert acknowledged
    figures(kills=kills, lost=lost, doubled=doubled, torn=torn)


HOLDER = """
import sys
from pathlib import Path
from elf.files import AppendLog, FolderLock
from elf.labels.manifest import LabelFolder
folder = Path(sys.argv[1])
held = AppendLog(folder / "log.jsonl"), FolderLock(folder / "lock"), LabelFolder(folder / "labels")
print("held", flush=True)
sys.stdin.read()
"""
OPENED = {
    "AppendLog": lambda folder: AppendLog(folder / "log.jsonl"),
    "FolderLock": lambda folder: FolderLock(folder / "lock"),
    "LabelFolder": lambda folder: LabelFolder(folder / "labels"),
}


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    """A process that writes all of a folder, and that folder."""
    folder = tmp_path_factory.mktemp("held")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        yield process, folder
        process.stdin.close()
    for opened in OPENED.values():
        opened(folder).close()  # free once the owner has ended


@pytest.mark.fault(8)
@pytest.mark.parametrize("kind", OPENED)
def test_a_second_process_is_refused_with_the_owners_pid(owner, kind, figures):
    process, folder = owner
    seconds = []
    for _ in range(20):
        start = time.monotonic()
        with pytest.raises(ElfError, match=rf"written by another process \(pid {process.pid}\): "):
            OPENED[kind](folder)
        seconds.append(time.monotonic() - start)
    assert statistics.median(seconds) < 1, "the promise is a time, so that is measured"
    figures(refusals=20, most_microseconds=round(1e6 * statistics.median(seconds)))
