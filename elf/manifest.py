"""The labels folder: one text file a picture, the manifest, the quarantine.

Crash-safe by order: a picture's text file is whole before its manifest line is appended, and
nothing counts as labelled without that line. Only :class:`LabelFolder` writes here.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.files import AppendLog, read_log, write_atomic

MANIFEST = "manifest.jsonl"
QUARANTINE = "quarantine.jsonl"
PENDING = ".relabelled.jsonl"
"""New records of pictures that the manifest holds already, until they replace the old ones."""

Record = dict[str, Any]
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ID = re.compile(r"[0-9a-f]{16}")
_LEFT_OVER = re.compile(r"\.([0-9a-f]{16}\.txt|(manifest|quarantine)\.jsonl)\.\w+\.tmp")


def labelled_ids(folder: str | Path) -> set[str]:
    """Return the ids that a labels folder's manifest holds; a torn last line does not count."""
    return {record["id"] for record in read_records(Path(folder) / MANIFEST)}


def read_records(path: str | Path) -> list[Record]:
    """Return a manifest's records; a torn last line is left out.

    Raises:
        ElfError: If a line is damaged or has no proper id, with its number.
    """
    records = read_log(path)
    for number, record in enumerate(records, 1):
        if not _ID.fullmatch(str(record.get("id"))):  # ids name files: nothing else may pass
            raise ElfError(f"{path}, line {number}: no `id` of 16 hex digits; mend that line")
    return records


def label_text(record: Record) -> str:
    """Return the content of a picture's text file."""
    return ", ".join(record["tags"]) + "\n"


class LabelFolder:
    """A labels folder, open for writing by one process.

    Opening mends what a crash left: a torn last line is cut off, temporary files go, relabelled
    records take their places, and a text file that is missing is written from the manifest.

    Attributes:
        ids: What the manifest holds.

    Raises:
        ElfError: If another process writes there, or the disk is full.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.ids: set[str] = set()
        self._failed: dict[str, Record] = {}
        self._written: set[str] = set()
        self._pending: AppendLog | None = None
        with self._disk_errors(), contextlib.ExitStack() as stack:
            self._manifest = stack.enter_context(AppendLog(self.folder / MANIFEST))
            self._manifest.records.clear()  # only the ids stay in memory
            self.ids |= labelled_ids(self.folder)
            self._quarantine = stack.enter_context(AppendLog(self.folder / QUARANTINE))
            self._mend()
            stack.pop_all()  # all is well: they stay open until close()

    def _mend(self) -> None:
        names = set(os.listdir(self.folder))
        for name in filter(_LEFT_OVER.fullmatch, names):
            (self.folder / name).unlink(missing_ok=True)
        if PENDING in names:
            self._merge()
        for record in read_records(self.folder / MANIFEST):
            if f"{record['id']}.txt" not in names:
                write_atomic(self.folder / f"{record['id']}.txt", label_text(record))

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "make room" if error.errno in _FULL else "mend that"
            raise ElfError(
                f"{self.folder}: could not write ({error.strerror or error}); {len(self.ids)} "
                f"labels are safe: {remedy}, then run the same command again to go on"
            ) from error

    def write(self, record: Record) -> bool:
        """Write a picture's text file, then its manifest line.

        Args:
            record: ``id``, ``tags`` and whatever else the manifest holds about a picture.

        Returns:
            False if the run has written that id already: nothing is done.
        """
        key = record["id"]
        if key in self._written:
            return False
        with self._disk_errors():
            write_atomic(self.folder / f"{key}.txt", label_text(record))
            if key in self.ids:
                if self._pending is None:
                    self._pending = AppendLog(self.folder / PENDING)
                self._pending.append(record)
            else:
                self._manifest.append(record)
        self.ids.add(key)
        self._written.add(key)
        return True

    def quarantine(self, record: Record) -> None:
        """Note a picture that cannot be used: ``path`` and ``reason``, ``id`` if it has one."""
        self._failed[record["path"]] = record
        if record not in self._quarantine.records:
            with self._disk_errors():
                self._quarantine.append(record)

    def sync(self) -> None:
        """Make all that was written survive a power loss."""
        with self._disk_errors():
            for log in self._logs():
                log.sync()

    def finish(self) -> None:
        """End a run that saw every picture: the quarantine then holds its failures and no other."""
        with self._disk_errors():
            failed = [self._failed[path] for path in sorted(self._failed)]
            if failed != read_log(self.folder / QUARANTINE):
                self._quarantine.rewrite(failed)

    def close(self) -> None:
        """Settle and release the folder; harmless when repeated."""
        with self._disk_errors(), contextlib.ExitStack() as stack:
            stack.callback(self._manifest.close)  # last: it holds the lock that others ask for
            stack.callback(self._remove_empty_quarantine)
            stack.callback(self._quarantine.close)
            if self._pending is not None:
                pending, self._pending = self._pending, None
                pending.close()
                self._merge()

    def _remove_empty_quarantine(self) -> None:
        path = self.folder / QUARANTINE
        if path.exists() and path.stat().st_size == 0:
            path.unlink()

    def _merge(self) -> None:
        """Put relabelled records in their old ones' places; repeating it changes nothing."""
        path = self.folder / PENDING
        fresh = {record["id"]: record for record in read_records(path)}
        if fresh:
            old = read_records(self.folder / MANIFEST)
            merged = [fresh.pop(record["id"], record) for record in old]
            self._manifest.rewrite([*merged, *fresh.values()])
        path.unlink()

    def _logs(self) -> Iterator[AppendLog]:
        yield self._manifest
        yield self._quarantine
        if self._pending is not None:
            yield self._pending
