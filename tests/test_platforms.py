"""What differs between systems: each one's way, tried by its name on this one."""

import io
import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from elf import platforms

EVERYWHERE = ("linux", "darwin", "win32")


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    """Put a module that another system has in the place of this one's."""
    made = types.ModuleType(name)
    made.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, made)


# --- files -------------------------------------------------------------------------------------


def test_windows_locks_a_byte_that_is_not_the_owners_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = []

    def locking(descriptor: int, mode: int, size: int) -> None:
        locked.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, size))

    module(monkeypatch, "msvcrt", locking=locking, LK_NBLCK=2)
    with open(tmp_path / "lock", "a+b") as file:
        file.write(b"1234\n")
        platforms.lock(file, "win32")
        assert locked == [(1 << 30, 2, 1)]
        assert file.read() == b"1234\n", "its position is where it was taken from"


def test_a_folder_that_windows_locks_names_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With locks of byte ranges, which Windows has and fcntl can stand for, in another process."""
    import fcntl

    from elf import files
    from elf.errors import ElfError

    def locking(descriptor: int, _: int, size: int) -> None:
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, size, start)

    module(monkeypatch, "msvcrt", locking=locking, LK_NBLCK=2)
    monkeypatch.setattr(files, "lock", lambda file: platforms.lock(file, "win32"))
    with files.FolderLock(tmp_path):
        child = os.fork()
        if not child:
            try:
                files.FolderLock(tmp_path)
            except ElfError as error:
                os._exit(int(f"(pid {os.getppid()})" not in str(error)))
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with files.FolderLock(tmp_path):
        pass


def test_macos_is_told_to_empty_the_drives_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []

    def refuse(descriptor: int, request: int) -> None:
        called.append((descriptor, request))
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(os, "fsync", lambda descriptor: called.append(descriptor))
    module(monkeypatch, "fcntl", fcntl=lambda *a: called.append(a), F_FULLFSYNC=51)
    platforms.sync_file(7, "darwin")
    assert called == [(7, 51)]
    module(monkeypatch, "fcntl", fcntl=refuse, F_FULLFSYNC=51)
    platforms.sync_file(7, "darwin")
    assert called[1:] == [(7, 51), 7], "a network's disk gets what it knows"
    platforms.sync_file(8, "linux")
    platforms.sync_file(9, "win32")
    assert called[3:] == [8, 9]


def test_folders_are_synced_where_they_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    platforms.sync_folder(tmp_path, "win32")
    assert synced == []
    platforms.sync_folder(tmp_path, "darwin")
    assert len(synced) == 1
    monkeypatch.delattr(os, "sync", raising=False)
    platforms.sync_disks()


def refusing(times: int) -> Callable[[str | Path, str | Path], None]:
    """A rename that is refused some times, as by a scanner that has the target open."""
    left = [times]

    def move(source: str | Path, target: str | Path) -> None:
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, "The process cannot access the file")
        os.replace(source, target)

    return move


def test_windows_is_asked_again_to_replace_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    with pytest.raises(PermissionError):
        platforms.move_over(tmp_path / "new", tmp_path / "old", "linux", refusing(1))
    platforms.move_over(tmp_path / "new", tmp_path / "old", "win32", refusing(3))
    assert (tmp_path / "old").read_text() == "new"
    monkeypatch.setattr(platforms, "PATIENCE", 0.05)
    with pytest.raises(PermissionError, match="cannot access"):
        platforms.move_over(tmp_path / "old", tmp_path / "new", "win32", refusing(10**6))
    with pytest.raises(FileNotFoundError):  # is no matter of patience
        platforms.move_over(tmp_path / "none", tmp_path / "new", "win32")


@pytest.mark.parametrize("system", EVERYWHERE)
def test_files_are_read_from_a_position(tmp_path: Path, system: str) -> None:
    data = bytes(range(256)) * 9 + b"\r\n\x1a\n"
    (tmp_path / "data").write_bytes(data)
    descriptor = platforms.open_to_read(tmp_path / "data")
    try:
        for position, size in ((3, 9), (0, len(data) + 9), (len(data) - 2, 9), (len(data), 1)):
            found = platforms.read_at(descriptor, size, position, system)
            assert found == data[position : position + size]
    finally:
        os.close(descriptor)


# --- processes ---------------------------------------------------------------------------------


def test_signals_are_this_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platforms.ending_signals()[:2] == (signal.SIGTERM, signal.SIGINT)
    monkeypatch.setattr(signal, "SIGBREAK", 21, raising=False)
    assert platforms.ending_signals()[-1] == 21


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_process_ends_as_by_the_signal(name: str) -> None:
    code = f"""
import signal
from elf.platforms import let_end
signal.signal(signal.{name}, lambda *_: print("handled"))
let_end(signal.{name})
print("still there")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-getattr(signal, name), "")


def test_what_is_forked_is_told_and_nothing_where_nothing_forks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: told.append(hooks))
    platforms.in_forked_children(test_signals_are_this_systems)
    assert told == [{"after_in_child": test_signals_are_this_systems}]
    monkeypatch.delattr(os, "register_at_fork")
    platforms.in_forked_children(test_signals_are_this_systems)


def test_a_port_is_not_taken_from_another_program_on_windows() -> None:
    for system, shared in (("linux", True), ("darwin", True), ("win32", False)):
        with socket.socket() as probe:
            platforms.allow_lingering(probe, system)
            assert bool(probe.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is shared


def test_shared_memory_has_a_size_of_its_own_on_linux_alone() -> None:
    assert platforms.shared_memory("win32") is platforms.shared_memory("darwin") is None
    assert platforms.shared_memory("linux") in (None, Path("/dev/shm"))


# --- the user's shell ---------------------------------------------------------------------------


def test_shells() -> None:
    assert [platforms.unset("A", system) for system in EVERYWHERE] == [
        "unset A", "unset A", "Remove-Item Env:A"
    ]  # fmt: skip
    assert [platforms.temporary_variable(system) for system in EVERYWHERE] == [
        "TMPDIR", "TMPDIR", "TMP"
    ]  # fmt: skip
    assert platforms.triton_package("linux") == "triton"
    assert platforms.triton_package("win32") == "triton-windows"


def test_where_passwords_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert platforms.netrc_file({"NETRC": "/a"}, "win32") == Path("/a")
    assert platforms.netrc_file({}, "linux") == tmp_path / ".netrc"
    assert platforms.netrc_file({}, "win32") == tmp_path / "_netrc"
    (tmp_path / ".netrc").touch()
    assert platforms.netrc_file({}, "win32") == tmp_path / ".netrc"


def test_no_output_is_too_strange_to_be_printed() -> None:
    for encoding, shown in (("cp1252", "? ×"), ("ascii", "? ?"), ("utf-8", "→ ×")):
        data = io.BytesIO()
        stream = io.TextIOWrapper(data, encoding)
        platforms.print_whatever_comes(stream)
        stream.write("→ ×, \udcff")  # the last: a byte of a file name that is no text
        stream.flush()
        assert data.getvalue().decode(encoding) == f"{shown}, ?"
    escaping = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")
    platforms.print_whatever_comes(escaping)
    assert escaping.errors == "backslashreplace"
    exact = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape")
    platforms.print_whatever_comes(exact)
    assert exact.errors == "surrogateescape", "prints the bytes of any file name as they are"
    platforms.print_whatever_comes(io.StringIO())


# --- all of Elf, as on Windows ------------------------------------------------------------------

FOREIGN = """
import importlib, locale, os, pkgutil, signal, sys, types
assert locale.getpreferredencoding(False) not in ("UTF-8", "utf-8"), "as Windows' is not"
if EVERY:  # what asks for the system while it is imported, and gets the true answer
    import torch, lightning.pytorch.cli, lightning.pytorch.loggers, transformers, diffusers, peft
    import torchvision, timm, accelerate, torchmetrics.text, onnxruntime, tensorboard, gradio
import asyncio, fsspec, jsonargparse, multiprocessing, numpy, PIL.Image, scipy.stats, tqdm
calls = types.ModuleType("msvcrt")
calls.LK_NBLCK, calls.locking = 2, lambda *_: None
sys.modules |= {"msvcrt": calls} | dict.fromkeys(("fcntl", "resource", "grp", "pwd", "termios"))
sys.modules |= dict.fromkeys([name for name in sys.modules if name.startswith("triton")])
sys.modules["triton"] = None
for name in ("pread", "sync", "fork", "register_at_fork", "O_NOFOLLOW", "posix_fadvise",
             "fdatasync", "getuid", "uname", "sched_getaffinity", "killpg", "statvfs"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL"):
    delattr(signal, name)
sys.platform = "win32"

import elf
if EVERY:
    plugins, failed, of_triton = {"elf.fiftyone_plugin", "elf.curation.plugin"}, [], set()
    for each in pkgutil.walk_packages(elf.__path__, "elf.", failed.append):
        if each.name in {"elf.__main__", *plugins}:
            continue
        try:
            importlib.import_module(each.name)
        except ModuleNotFoundError as error:  # those are imported where kernels can be compiled
            assert error.name.startswith("triton"), error
            of_triton.add(each.name)
    assert set(failed) <= plugins, failed
    others = {name for name in of_triton if "kernel" not in name}
    assert others == {"elf.taggers.launching"}, others
from pathlib import Path
from elf import cli, images, platforms
from elf.caching import tagcache
from elf.labels import manifest
from elf.configuration.command_parser import CommandParser
from elf.files import AppendLog, write_atomic
from elf.preparation.shards import Reader
from elf.doctor.storage import try_to_write

assert platforms.SYSTEM == "win32"
assert len(platforms.ending_signals()) == 2
write_atomic("file", "Größe")
with AppendLog("log.jsonl") as log:
    log.append({"a": "é"})
with AppendLog("log.jsonl") as log:
    assert log.records == [{"a": "é"}]
    log.rewrite([{"a": "b"}])
Path("tar").write_bytes(b"0123\\r\\n\\x1a89")
assert Reader(Path())("tar", 3, 5) == b"3\\r\\n\\x1a8"
assert try_to_write(Path()) == ""
Path("run.yaml").write_text("prompt: é ← Größe", "utf-8")
parser = CommandParser("serve", "")
parser.add_argument("--prompt", type=str)
assert parser.read(["--config=run.yaml"]).prompt == "é ← Größe"
cli.main(["--help"])
print("→")
"""


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_is_missed_that_windows_lacks(tmp_path: Path, every: bool) -> None:
    """No fcntl, signals, fork or Triton, and an encoding in which configs are not written."""
    # ASCII stands for cp1252, which no locale of Linux' has: it refuses what that would garble
    around = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    around |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TRITON_INTERPRET": "0"}
    program = tmp_path / "program.py"
    program.write_text(f"EVERY = {every}\n{FOREIGN}", "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program],
        cwd=tmp_path,
        env=around,
        capture_output=True,
        text=True,
        encoding="ascii",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("?\n")
