"""What models said about pictures, on the disk: append-only segments that a kill cannot spoil.

A folder stands for one model and one preprocessing; in it an entry is found by the sha256 of the
picture's bytes. Each process appends to a segment of its own and reads all of them. An entry is

    magic (4) | payload's length (u32) | crc32 (u32) | sha256 of the picture (32) | payload

A torn tail is cut off by the next process that appends there; whatever else is damaged counts as
missing, for it can be computed again.
"""

import os
import struct
import warnings
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from elf.errors import ElfError, ElfWarning
from elf.files import FolderLock
from elf.platforms import read_at

MAGIC = b"elf1"
HEADER = struct.Struct("<4sII32s")


class ResultCache:
    """The entries of one folder. Memory: 24 bytes an entry that was there when it was opened."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: list[BinaryIO] = []
        self._own: BinaryIO | None = None
        self._lock: FolderLock | None = None
        self._broken = False
        found: list[tuple[int, int, int, int]] = []
        for number, path in enumerate(sorted(self.folder.glob("*.segment"))):
            self._files.append(open(path, "rb", buffering=0))
            found += [(key, number, at, length) for key, at, length, _ in _scan(self._files[-1])]
        rows = np.array(found, np.uint64).reshape(-1, 4)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        # a memory view: one key is found sooner in it than in an array
        self._keys = np.ascontiguousarray(rows[:, 0]).data
        self._places = rows[:, 1:].astype(np.int64)  # segment, position, payload's length

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, sha256: str) -> bytes | None:
        """Return the payload that was stored for a picture; None if there is none, or no whole."""
        wanted = bytes.fromhex(sha256)
        key = int.from_bytes(wanted[:8], "big")
        row = bisect_right(self._keys, key)
        while row and self._keys[row - 1] == key:  # the newest first
            row -= 1
            number, position, length = self._places[row].tolist()
            data = read_at(self._files[number].fileno(), HEADER.size + length, position)
            payload = _payload(data, wanted)
            if payload is not None:
                return payload
        return None

    def __contains__(self, sha256: str) -> bool:
        return self.get(sha256) is not None

    def put(self, sha256: str, payload: bytes) -> None:
        """Append an entry; it is found by whoever opens the folder from now on.

        A cache that cannot be written (a full disk) is given up with a warning: labels matter more.
        """
        if self._broken:
            return
        key = bytes.fromhex(sha256)
        head = HEADER.pack(MAGIC, len(payload), _checksum(key, payload), key)
        try:
            if self._own is None:
                self._own = self._open_own()
            _append(self._own, head + payload)
        except OSError as error:
            self._broken = True
            warnings.warn(
                f"{self.folder}: could not be written ({error.strerror or error}); the run goes "
                "on without keeping raw scores",
                ElfWarning,
                stacklevel=2,
            )

    def _open_own(self) -> BinaryIO:
        for slot in range(1000):
            try:
                self._lock = FolderLock(self.folder, f".{slot:03}.lock")
            except ElfError:  # another process appends there
                continue
            file = open(self.folder / f"{slot:03}.segment", "ab+", buffering=0)
            ends = [end for *_, end in _scan(file)]
            file.truncate(ends[-1] if ends else 0)
            return file
        raise OSError(f"more than 1000 processes write into {self.folder}")

    def close(self) -> None:
        """Release the folder; harmless when repeated."""
        for file in (*self._files, *([self._own] if self._own else [])):
            file.close()
        if self._lock is not None:
            self._lock.close()
        self._own = self._lock = None

    def __enter__(self) -> "ResultCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:  # of a run that was stopped by an error
        self.close()


def _append(file: BinaryIO, data: bytes) -> None:
    size = os.fstat(file.fileno()).st_size
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        file.truncate(size)
        raise


def _scan(file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first 8 bytes of the key, position, payload's length, end) of each whole entry."""
    size = os.fstat(file.fileno()).st_size
    position = 0
    while position + HEADER.size <= size:
        magic, length, _, key = HEADER.unpack(read_at(file.fileno(), HEADER.size, position))
        end = position + HEADER.size + length
        if magic != MAGIC or end > size:
            return
        yield int.from_bytes(key[:8], "big"), position, length, end
        position = end


def _payload(data: bytes, wanted: bytes) -> bytes | None:
    if len(data) < HEADER.size:
        return None
    magic, length, checksum, key = HEADER.unpack_from(data)
    payload = data[HEADER.size :]
    if magic != MAGIC or key != wanted or len(payload) != length:
        return None
    return payload if checksum == _checksum(key, payload) else None


def _checksum(key: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(key + struct.pack("<I", len(payload))))
