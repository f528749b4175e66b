"""Disks: room, writing, syncing and locking where Elf writes; and memory shared by processes."""

import shutil
import tempfile
from pathlib import Path

from elf.doctor.finding import Finding, broken, first_line, good, note
from elf.doctor.hub import cache_folder
from elf.doctor.needs import Needs
from elf.errors import ElfError
from elf.files import FolderLock, write_atomic
from elf.memory import GIB
from elf.platforms import shared_memory, temporary_variable

LEAST, USUAL = 1, 10
"""GiB: below the first nothing will do; below the second a base model does not fit."""
SHARED = 0.25
"""GiB of shared memory that workers need; a container has 64 MiB if nothing is said."""


def check(needs: Needs) -> list[Finding]:
    """Write a file in each place, and look at how much room is left."""
    run = nearest(Path(needs.run or "models"))
    places = {
        "runs": (run, "trainer.default_root_dir"),
        "temporary": (nearest(Path(tempfile.gettempdir())), temporary_variable()),
        "downloads": (nearest(cache_folder()), "HF_HOME"),
    }
    found = []
    for name, (folder, setting) in places.items():
        free = shutil.disk_usage(folder).free / GIB
        found.append(judge_disk(name, folder, free, try_to_write(folder), setting))
    memory = shared_memory()
    size = shutil.disk_usage(memory).total / GIB if memory else None
    return [*found, judge_shared(size, needs)]


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    folder = folder.expanduser().absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def try_to_write(folder: Path) -> str:
    """Write, sync, rename and lock in a folder; return what was said if that fails."""
    try:
        with tempfile.TemporaryDirectory(prefix=".elf-doctor-", dir=folder) as name:
            write_atomic(Path(name) / "file", b"elf" * 1024)
            with FolderLock(name):
                return ""
    except (OSError, ElfError) as error:
        return first_line(getattr(error, "strerror", None) or error)


def judge_disk(name: str, folder: Path, free: float, reason: str, setting: str) -> Finding:
    """Say whether a folder will do.

    Args:
        name: What is written there.
        folder: Where.
        free: GiB.
        reason: What was said if writing failed.
        setting: What chooses another folder.
    """
    check = f"disk.{name}"
    facts = {"folder": str(folder), "free_gib": round(free, 1)}
    said = f"{folder}, {free:.1f} GiB free"
    do = f"free some space there, or choose another disk by {setting}"
    if free < LEAST:
        return broken(check, f"{said}: too little for anything", do, **facts)
    if reason:
        do = f"make that folder writable for you, or choose another by {setting}"
        return broken(
            check, f"{folder} cannot be written, synced and locked: {reason}", do, **facts
        )
    if free < USUAL:
        return note(
            check, f"{said}: a base model, or a run's checkpoints, may not fit", do, **facts
        )
    return good(check, said, **facts)


def judge_shared(size: float | None, needs: Needs) -> Finding:
    """Say whether processes that load data have memory to share.

    Args:
        size: GiB; None where the system has no such limit.
        needs: What a config needs.
    """
    check = "shared_memory"
    if size is None:
        return good(check, "this system sets no limit", size_gib=None)
    said = f"{size:.2f} GiB of shared memory"
    if size >= SHARED:
        return good(check, said, size_gib=round(size, 2))
    do = "docker run --shm-size=2g, or --data.workers 0"
    said += ": processes that load data may die of it"
    state = broken if needs.workers else note
    return state(check, said, do, size_gib=round(size, 2))
