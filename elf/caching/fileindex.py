"""What files held when they were last read, so that an unchanged one is not opened again."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from elf.errors import ElfError
from elf.files import AppendLog, parse_line, sha256_file

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns."""

COARSE, FINE = 2_000_000_000, 20_000_000
"""How much older than its reading (ns) a file must be: a later change within the clock's tick
would leave no trace. Some file systems keep whole seconds (or two), others the kernel's tick."""


class FileIndex:
    """The sha256 of files by path, valid while size and time of change stay the same.

    Several processes may use one folder: each appends to a log of its own and reads all logs.
    A damaged entry costs only that its file is read again. Threads may share an index.

    Args:
        folder: Of the logs.
        within: The folders that will be asked for, if that is known: what is elsewhere is not
            read, and its files count as new.
    """

    def __init__(self, folder: str | Path, within: Iterable[str | Path] = ()) -> None:
        self.folder = Path(folder)
        self._known: dict[str, tuple[int, int, str]] = {}
        self._log: AppendLog | None = None
        self._writing = threading.Lock()
        parts = [json.dumps(os.path.abspath(part), ensure_ascii=False)[1:-1] for part in within]
        marks = [part.encode(errors="replace") for part in parts]  # as they stand in a line
        for path in sorted(self.folder.glob("files-*.jsonl")):
            self._read(path, marks)

    def _read(self, path: Path, marks: Sequence[bytes]) -> None:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            for line in file:
                if marks and not any(mark in line for mark in marks):
                    continue
                with contextlib.suppress(KeyError, TypeError):  # a path that is none
                    entry = parse_line(line) or {}
                    self._known[entry["path"]] = (entry["size"], entry["mtime"], entry["sha256"])

    def lookup(self, path: str | Path) -> str | None:
        """Return a file's sha256 without opening it; None if it is new, changed or gone."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        size, mtime, digest = self._known.get(os.path.abspath(path), (-1, 0, ""))
        return digest if (size, mtime) == (status.st_size, status.st_mtime_ns) else None

    def sha256(self, path: str | Path) -> str:
        """Return a file's sha256, and remember it if the file had to be read.

        Raises:
            OSError: If it cannot be read.
        """
        known = self.lookup(path)
        if known is not None:
            return known
        now = time.time_ns()
        status = os.stat(path)
        digest = sha256_file(path)
        margin = FINE if status.st_mtime_ns % 1_000_000_000 else COARSE
        if status.st_mtime_ns + margin < now:
            self._remember(path, (status.st_size, status.st_mtime_ns), digest)
        return digest

    def _remember(self, path: str | Path, stamp: Stamp, digest: str) -> None:
        name = os.path.abspath(path)
        entry = {"path": name, "size": stamp[0], "mtime": stamp[1], "sha256": digest}
        with self._writing:
            self._known[name] = (*stamp, digest)
            try:
                if self._log is None:
                    self._log = _own_log(self.folder)
                self._log.append(entry)
            except OSError:
                return  # a full disk: the file is read again next time

    def close(self) -> None:
        """Release the log; harmless when repeated."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()
            self._log = None


def _own_log(folder: Path) -> AppendLog:
    """Open the first log that no other process holds."""
    slot = 0
    while True:
        try:
            return AppendLog(folder / f"files-{slot:03}.jsonl", keep_records=False)
        except ElfError:  # held by another process
            slot += 1
            if slot > 999:
                raise
