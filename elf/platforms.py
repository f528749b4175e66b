"""What differs between Linux, macOS and Windows, in this file alone.

Each function says what it does; how depends on ``system``, as ``sys.platform`` has it. Linux is
what Elf is tested on: there the others' ways are tested with their names given.
"""

import importlib
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

SYSTEM = sys.platform

EXACTLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Flags of ``os.open``: the file itself and not what it links to, and its bytes as they are."""

PATIENCE = 2.0
"""Seconds for which Windows is asked again to replace a file that another program looks at."""

ENDING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK")
"""Signals that ask a process to end: the third is SLURM's before a job's time is up, the last
Windows' Ctrl-Break."""

LOCKED = 1 << 30
"""Where Windows locks a byte: beyond the owner's pid, which others must be able to read."""

# --- files -------------------------------------------------------------------------------------


def lock(file: BinaryIO, system: str = SYSTEM) -> None:
    """Lock a file for this process; the system frees it when the process ends, however it does.

    Raises:
        OSError: If another process holds it.
    """
    if system == "win32":
        msvcrt = _only_there("msvcrt")
        file.seek(LOCKED)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        fcntl = _only_there("fcntl")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_file(descriptor: int, system: str = SYSTEM) -> None:
    """Make what was written to a file survive a power loss.

    macOS's ``fsync`` leaves it in the drive's own memory, unless it is told.
    """
    if system == "darwin":
        fcntl = _only_there("fcntl")
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError:  # a network's disk, which knows no such call
            pass
    os.fsync(descriptor)


def sync_folder(folder: str | Path, system: str = SYSTEM) -> None:
    """Make renames inside a folder durable; nothing where folders cannot be opened (Windows)."""
    if system == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_disks() -> None:
    """Make everything written so far survive a power loss; nothing where there is no such call."""
    if hasattr(os, "sync"):
        os.sync()


def move_over(
    source: str | Path,
    target: str | Path,
    system: str = SYSTEM,
    move: Callable[[str | Path, str | Path], None] | None = None,
) -> None:
    """Give a file the name of another, which it replaces in one instant.

    Windows refuses while any program has the other one open, as virus scanners and indexers do for
    a moment after it was written; it is asked again until `PATIENCE` is over.

    Args:
        source: The new file.
        target: Its name to be.
        system: As ``sys.platform``.
        move: ``os.replace`` if not given.

    Raises:
        OSError: If it cannot be.
    """
    move = move or os.replace
    end, pause = time.monotonic() + PATIENCE, 0.01
    while True:
        try:
            return move(source, target)
        except PermissionError:
            if system != "win32" or time.monotonic() > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.2)


def open_to_read(path: str | Path) -> int:
    """Return a descriptor of a file's bytes as they are."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


_POSITION = threading.Lock()


def read_at(descriptor: int, size: int, position: int, system: str = SYSTEM) -> bytes:
    """Return so many bytes of a file from a position; fewer where it ends.

    Windows moves a position that the whole process shares, and so reads one after the other.
    """
    if system != "win32":
        return os.pread(descriptor, size, position)
    with _POSITION:
        os.lseek(descriptor, position, os.SEEK_SET)
        pieces, left = [], size
        while left and (piece := os.read(descriptor, left)):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)


# --- processes ---------------------------------------------------------------------------------


def in_forked_children(function: Callable[[], None]) -> None:
    """Call a function in each process that is forked from this one; Windows forks none."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals of this system that ask a process to end."""
    return tuple(getattr(signal, name) for name in ENDING if hasattr(signal, name))


def let_end(number: int) -> None:
    """Do to this process what a signal does that nobody handles.

    Not by ``os.kill``, with which Windows ends a process at once, with the number as its status.
    """
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def allow_lingering(probe: socket.socket, system: str = SYSTEM) -> None:
    """Let a socket take a port that a program has just left; on Windows it would take any."""
    if system != "win32":
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def shared_memory(system: str = SYSTEM) -> Path | None:
    """Return the folder of the memory that processes share, where it has a size of its own."""
    folder = Path("/dev/shm")
    return folder if system == "linux" and folder.is_dir() else None


# --- graphics drivers ---------------------------------------------------------------------------


def has_expandable_segments(system: str = SYSTEM, release: str | None = None) -> bool:
    """Whether CUDA can make memory grow page by page.

    Torch's builds for Windows have long had no expandable segments, and warn. Under WSL and on
    Tegra boards the driver offers the calls that they consist of, and fails in the first allocation
    (https://github.com/pytorch/pytorch/issues/192330).

    Args:
        system: As ``sys.platform``.
        release: Of the kernel; this machine's if None.
    """
    kernel = _kernel(release)
    return system == "linux" and not any(name in kernel for name in ("microsoft", "wsl", "tegra"))


def lends_system_memory(system: str = SYSTEM, release: str | None = None) -> bool:
    """Whether the driver gives a GPU's programs system memory where its own is full.

    Args:
        system: As ``sys.platform``.
        release: Of the kernel; this machine's if None.
    """
    return system == "win32" or (system == "linux" and "microsoft" in _kernel(release))


def can_forbid_lending(system: str = SYSTEM) -> bool:
    """Whether a setting of the driver forbids that.

    WSL does not heed it (https://github.com/microsoft/WSL/issues/11050).
    """
    return system == "win32"


def triton_package(system: str = SYSTEM) -> str:
    """Return the package that has Triton."""
    return "triton-windows" if system == "win32" else "triton"


# --- the user's shell ---------------------------------------------------------------------------


def unset(variable: str, system: str = SYSTEM) -> str:
    """Return the line that takes a variable out of the environment: bash's, or PowerShell's."""
    return f"Remove-Item Env:{variable}" if system == "win32" else f"unset {variable}"


def temporary_variable(system: str = SYSTEM) -> str:
    """Return the variable that names the folder of temporary files."""
    return "TMP" if system == "win32" else "TMPDIR"


def netrc_file(environment: Mapping[str, str], system: str = SYSTEM) -> Path:
    """Return the file of passwords that W&B's login writes."""
    if named := environment.get("NETRC"):
        return Path(named).expanduser()
    usual = Path("~/.netrc").expanduser()
    return usual.with_name("_netrc") if system == "win32" and not usual.exists() else usual


def print_whatever_comes(stream: TextIO) -> None:
    """Let a stream print a ``?`` for what its encoding lacks, where it would raise an error.

    Output into a file or a pipe is in Windows' old encoding of the country, which has no arrows; no
    encoding has a file name that is no text.
    """
    unicode = str(stream.encoding).lower().startswith("utf")
    strict = ("strict",) if unicode else ("strict", "surrogateescape")  # the latter: locale C
    if getattr(stream, "errors", None) in strict and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


def _kernel(release: str | None) -> str:
    return (platform.release() if release is None else release).lower()


def _only_there(module: str) -> Any:
    """Import a module that only some systems have."""
    return importlib.import_module(module)
