"""Shards: deterministic WebDataset tars, each with a checksummed byte index beside it.

Any tar tool and the webdataset library read the tars. Elf reads them by position through the
index, because no library can start in the middle of an epoch; and since those libraries end
silently at a zero block or a damaged header, a tar is only indexed when it is whole to its end.
"""

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from elf.checked import VERSION, canonical, read_checked, write_checked
from elf.errors import ElfError
from elf.files import atomic_path, sha256_file
from elf.platforms import open_to_read, read_at
from elf.stamps import Stamps

BLOCK = 512  # bytes; a tar is made of such blocks
# What may stand in a shard; anything else (pickles above all) is not indexed, so never read.
SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "txt", "json", "npy"}
_MEMBER = re.compile(r"(?:\./)*((?:[^/]+/)*[^./][^./]*)\.([^/]+)")


@dataclass(frozen=True)
class Sample:
    """What is written under one key: the members' bytes by suffix, and what the index repeats."""

    key: str
    members: Mapping[str, bytes]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One sample of an index.

    Attributes:
        key: The sample's name.
        members: Per suffix the offset and size of its bytes in the tar.
        meta: The sample's ``.json`` member.
    """

    key: str
    members: dict[str, tuple[int, int]]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Index:
    """What a tar holds and where.

    Attributes:
        tar: The tar's file name.
        size: Its size in bytes.
        sha256: Of the whole tar, in hex.
        recipe: A hash of what it was made from; tells whether it must be made again.
        entries: Its samples in the order of the tar.
    """

    tar: str
    size: int
    sha256: str
    recipe: str
    entries: list[Entry]


def index_path(tar: Path) -> Path:
    """Return where the index of a tar lies."""
    return tar.with_suffix(".index.json")


def write_shard(path: Path, samples: Iterable[Sample], recipe: str = "") -> Index:
    """Write samples as a tar and its index, each atomically; the same samples give the same bytes.

    Members are sorted by suffix; a ``.json`` member holds each sample's meta. A crash between tar
    and index leaves a pair that does not match, which reading refuses and preparing replaces.

    Args:
        path: The tar.
        samples: In the order of their keys; written as they come, so they may be many.
        recipe: A hash of what the samples are made from, for the index.

    Raises:
        ValueError: If keys are not ascending, or hold a dot or a slash (they would be cut there).
    """
    from webdataset import TarWriter  # takes a second to import

    last = ""
    with atomic_path(path) as temporary:
        with (
            open(temporary, "wb") as file,
            # an integer mtime: a float would add a pax header before each member
            TarWriter(file, user="elf", group="elf", mode=0o644, encoder=False, mtime=0) as writer,
        ):
            for sample in samples:
                if sample.key <= last or not {".", "/"}.isdisjoint(sample.key):
                    raise ValueError(f"{path}: key {sample.key!r} after {last!r}")
                last = sample.key
                meta = {"json": canonical(sample.meta)} if sample.meta else {}
                writer.write({"__key__": sample.key, **sample.members, **meta})
        index = scan(temporary, path.name, recipe)
    write_index(path, index)
    return index


def write_index(tar: Path, index: Index) -> None:
    """Write an index beside its tar, atomically."""
    entries = [vars(entry) for entry in index.entries]  # asdict would copy every number
    write_checked(index_path(tar), {"version": VERSION, **vars(index), "entries": entries})


def read_index(tar: Path) -> Index:
    """Read the index of a tar.

    Raises:
        ElfError: If it is missing, damaged, or no index.
    """
    remedy = "run `elf prepare` again"
    value = read_checked(index_path(tar), remedy)
    try:
        entries = [
            Entry(
                entry["key"],
                {suffix: (start, size) for suffix, (start, size) in entry["members"].items()},
                entry["meta"],
            )
            for entry in value["entries"]
        ]
        if value["tar"] != tar.name or not isinstance(value["sha256"], str):
            raise ValueError
        _require_within(entries, value["size"])
        return Index(value["tar"], value["size"], value["sha256"], value["recipe"], entries)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ElfError(f"{index_path(tar)} is no index of a shard: {remedy}") from None


def _require_within(entries: Iterable[Entry], total: int) -> None:
    """Whoever wrote an index may have named places that are none, or as many bytes as he liked."""
    if type(total) is not int:
        raise ValueError
    for entry in entries:
        if not isinstance(entry.key, str) or not isinstance(entry.meta, dict):
            raise ValueError
        for start, size in entry.members.values():
            if type(start) is not int or type(size) is not int:
                raise ValueError
            if size < 0 or not 0 <= start <= total - size:
                raise ValueError


class _Bounded:
    """A file that never allocates more than it holds, whatever a header declares."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(max(0, min(size, self._size - self._file.tell())))


def scan(path: Path, name: str | None = None, recipe: str = "", read_meta: bool = True) -> Index:
    """Index a tar that Elf or any other tool wrote; nothing of it is unpacked.

    Members are grouped by key over the whole tar, as plain ``tar`` may interleave them. Folders
    and members without a known suffix are left out.

    Args:
        path: The tar.
        name: The file name to record, if the tar will be renamed.
        recipe: What to record as the hash of its origin.
        read_meta: Whether entries are to have their ``.json`` members, all in memory.

    Raises:
        ElfError: If the tar is cut, damaged, or holds links, sparse or doubled members, or names
            that lead out of a folder.
    """
    size = path.stat().st_size
    end = 0
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=_Bounded(file, size), mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    end = max(end, member.offset_data)
                    if member.isdir():
                        continue
                    if not member.isreg() or member.issparse():
                        raise ElfError(f"{path}: {member.name!r} is a link or no plain file")
                    if member.name.startswith("/") or ".." in member.name.split("/"):
                        raise ElfError(f"{path}: {member.name!r} leads out of its folder")
                    end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                    _group(path, found, member)
        except (tarfile.TarError, ValueError, OSError, EOFError, OverflowError, MemoryError) as e:
            raise _cut(path, f"{type(e).__name__}: {e}" if str(e) else type(e).__name__) from None
        _require_end(path, file, end, size)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        entries = [
            Entry(key, members, _meta(file, members) if read_meta else {})
            for key, members in found.items()
        ]
    return Index(name or path.name, size, sha256, recipe, entries)


def _cut(path: Path, why: str) -> ElfError:
    return ElfError(f"{path} is cut or damaged ({why}): run `elf prepare` again or replace it")


def _group(
    path: Path, found: dict[str, dict[str, tuple[int, int]]], member: tarfile.TarInfo
) -> None:
    match = _MEMBER.fullmatch(member.name)
    if match is None or match[2].lower().rsplit(".", 1)[-1] not in SUFFIXES:
        return
    key, suffix = match[1], match[2].lower()
    members = found.setdefault(key, {})
    if suffix in members:
        raise ElfError(f"{path}: {member.name!r} stands in it twice; write the tar anew")
    members[suffix] = (member.offset_data, member.size)


def _require_end(path: Path, file: BinaryIO, end: int, size: int) -> None:
    """Nothing but zeros may follow the last member, and at least the two end blocks."""
    if size - end < 2 * BLOCK:
        raise _cut(path, "it has no end")
    file.seek(end)
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise _cut(path, f"unreadable after byte {end}")


def _meta(file: BinaryIO, members: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    if "json" not in members:
        return {}
    start, size = members["json"]
    file.seek(start)
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(file.read(size))
        if isinstance(value, dict):
            return value
    return {}


def verify(tars: Sequence[Path]) -> list[Index]:
    """Return the indexes of tars after checking that each tar is, byte for byte, the indexed one.

    A tar is hashed once; then its size, times and inode vouch for it, noted in a file beside it.

    Raises:
        ElfError: If a tar or its index is missing, cut or changed.
    """
    indexes = []
    stamps: dict[Path, Stamps] = {}
    for tar in tars:
        index = read_index(tar)
        try:
            status = tar.stat()
        except FileNotFoundError:
            raise ElfError(f"{tar} is missing: run `elf prepare` again") from None
        if status.st_size != index.size:
            raise _cut(tar, f"{status.st_size} bytes, its index says {index.size}")
        known = stamps.setdefault(tar.parent, Stamps(tar.parent))
        if not known.holds(tar.name, status, index.sha256, partial(sha256_file, tar)):
            raise _cut(tar, "its sha256 is not the one in its index")
        indexes.append(index)
    for each in stamps.values():
        each.keep()
    return indexes


class Reader:
    """Reads members of tars by position; safe to use in forked and spawned workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_open": {}}  # descriptors do not travel to a new process

    def __call__(self, tar: str, start: int, size: int) -> bytes:
        """Return ``size`` bytes of a tar from ``start`` on.

        Raises:
            ElfError: If the tar is missing or ends before.
        """
        path = self.folder / tar
        try:
            if tar not in self._open:
                self._open[tar] = open_to_read(path)
            data = read_at(self._open[tar], size, start)
        except FileNotFoundError:
            raise ElfError(f"{path} is missing: run `elf prepare` again") from None
        if len(data) != size:
            raise _cut(path, f"it ends before byte {start + size}")
        return data

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        while self._open:
            os.close(self._open.popitem()[1])
