"""The labels folder: one text file a picture, the manifest, the quarantine.

Crash-safe by order: a picture's text file is whole before its manifest line is appended, and
nothing counts as labelled without that line. The new record of a picture that has one already is
in a journal before its text is written, so that no text file is ever taken for a person's edit
(:mod:`elf.handedits`) that is none. Only :class:`LabelFolder` writes the manifest;
further processes of the same run write journals (:mod:`elf.journal`), which it takes in.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from elf.decisions import apply_decision, is_left_out, read_decisions
from elf.errors import ElfError
from elf.files import AppendLog, iterate_log, parse_line, read_log, sync_disks
from elf.handedits import HandEdits, OldRecords
from elf.labeltext import label_text, write_text, write_texts

__all__ = ["LabelFolder", "label_text", "labelled_ids", "read_records"]

MANIFEST = "manifest.jsonl"
QUARANTINE = "quarantine.jsonl"
JOURNALS = ".journal-*.jsonl"
QUARANTINES = ".quarantine-*.jsonl"
PENDING = ".journal-relabelled.jsonl"
"""New records of pictures that the manifest holds already, until they replace the old ones."""
UNSETTLED = ".unsettled"
"""Stands there while text files may not have reached the disk."""

Record = dict[str, Any]
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ID = re.compile(r"[0-9a-f]{16}")
_LINE = re.compile(rb'\{"id": "([0-9a-f]{16})", .*\}\n', re.DOTALL)
_LEFT_OVER = re.compile(r"\.([0-9a-f]{16}\.txt|(manifest|quarantine)\.jsonl)\.\w+\.tmp")


def labelled_ids(folder: str | Path) -> set[str]:
    """Return the ids that a labels folder holds; a torn last line does not count."""
    paths = [Path(folder) / MANIFEST, *Path(folder).glob(JOURNALS)]
    return {key for path in paths for key, _ in read_lines(path)}


def read_lines(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield each record's id and its line, unread beyond that; a torn last line is left out.

    Raises:
        ElfError: If a line is damaged or has no proper id, with its number.
    """
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if match := _LINE.fullmatch(line):
                yield match[1].decode(), line
                continue
            record = parse_line(line)
            if record is None and not line.endswith(b"\n"):
                return
            if record is None:
                raise ElfError(
                    f"{path}, line {number}: not a JSON object; mend or delete that line"
                )
            if not _ID.fullmatch(str(record.get("id"))):  # ids name files: nothing else may pass
                raise ElfError(f"{path}, line {number}: no `id` of 16 hex digits; mend that line")
            yield record["id"], line if line.endswith(b"\n") else line + b"\n"


def read_records(path: str | Path) -> Iterator[Record]:
    """Yield a manifest's records; a torn last line is left out.

    Raises:
        ElfError: If a line is damaged or has no proper id, with its number.
    """
    for number, (key, line) in enumerate(read_lines(path), 1):
        record = parse_line(line)
        if record is None or record.get("id") != key:
            raise ElfError(f"{path}, line {number}: not a JSON object; mend or delete that line")
        yield record


class LabelFolder:
    """A labels folder, open for writing by one process.

    Opening mends what a crash left: a torn last line is cut off, temporary files go, journals
    are taken in, and a text file that is missing or empty is written from the manifest. It also
    brings the labels into line with the reviewer's decisions. A text file that was edited by
    hand becomes one of them before anything would replace it.

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
        self._settled = True
        with self._disk_errors(), contextlib.ExitStack() as stack:
            manifest = AppendLog(self.folder / MANIFEST, keep_records=False)
            self._manifest = stack.enter_context(manifest)
            self._quarantine = stack.enter_context(AppendLog(self.folder / QUARANTINE))
            stack.callback(self._close_pending)
            self._decisions = read_decisions(self.folder)
            old = OldRecords(self.folder / MANIFEST)
            self._edits = HandEdits(self.folder, old, self._decisions)
            self._mend()
            stack.pop_all()  # all is well: they stay open until close()

    def _mend(self) -> None:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self.folder)}
        for name in filter(_LEFT_OVER.fullmatch, sizes):
            (self.folder / name).unlink(missing_ok=True)
        journals = sorted(self.folder.glob(JOURNALS))
        self._complete(journals)
        self._take_in(journals)
        self._take_in_quarantines()
        self.ids |= labelled_ids(self.folder)
        unsettled = UNSETTLED in sizes
        for key, line in read_lines(self.folder / MANIFEST):
            name = f"{key}.txt"
            spoilt = unsettled and sizes.get(name) and b"\0" in (self.folder / name).read_bytes()
            if not spoilt and sizes.get(name) and key not in self._decisions:
                if b'"before_review"' not in line:
                    continue
            record = parse_line(line)
            if record is None:
                raise ElfError(f"{self.folder / MANIFEST}: {key}: not a JSON object; mend it")
            wanted = apply_decision(record, self._decisions.get(key))
            if wanted != record:
                wanted = self._edits.decided(record, old=record)
                self._pend(wanted)
            if wanted != record or spoilt or not (sizes.get(name) or is_left_out(wanted)):
                self._unsettle()
                write_text(self.folder, wanted)
        self._merge_pending()

    def _complete(self, journals: Iterable[Path]) -> None:
        """Write the texts that a kill kept from their new records."""
        for key, line in (entry for journal in journals for entry in read_lines(journal)):
            record = parse_line(line) if key in self._edits.old else None
            if record is not None:
                self._unsettle()
                write_text(self.folder, self._edits.decided(record))

    def _pend(self, *records: Record) -> None:
        if self._pending is None:
            self._pending = AppendLog(self.folder / PENDING, keep_records=False)
        self._pending.append(*records)

    def _close_pending(self) -> bool:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.close()
        return pending is not None

    def _merge_pending(self) -> None:
        if self._close_pending():
            self._sync_texts()  # before their records replace the old ones
            self._take_in([self.folder / PENDING])

    def _sync_texts(self) -> None:
        if (self.folder / UNSETTLED).exists():
            sync_disks()

    def _unsettle(self) -> None:
        if self._settled:
            (self.folder / UNSETTLED).touch()
            self._settled = False

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with disk_errors(self.folder, self.ids):
            yield

    def write(self, *records: Record) -> list[bool]:
        """Write pictures' text files, then their manifest lines, as the reviewer wants them.

        Args:
            records: ``id``, ``tags`` and whatever else the manifest holds about a picture.

        Returns:
            For each of them, False if the run has written that id already: nothing is done.
        """
        again, fresh, new = [], [], []
        with self._disk_errors():
            self._unsettle()
            for record in records:
                key = record["id"]
                new.append(key not in self._written)
                self._written.add(key)
                if new[-1] and key in self.ids:
                    again.append(self._edits.decided(record))
                elif new[-1]:
                    fresh.append(apply_decision(record, self._decisions.get(key)))
            if again:
                self._pend(*again)
            write_texts(self.folder, [*again, *fresh])
            if fresh:
                self._manifest.append(*fresh)
        self.ids |= {record["id"] for record in fresh}
        return new

    def quarantine(self, record: Record) -> None:
        """Note a picture that cannot be used: ``path`` and ``reason``, ``id`` if it has one."""
        self._failed[record["path"]] = record
        if record not in self._quarantine.records:
            with self._disk_errors():
                self._quarantine.append(record)

    def sync(self) -> None:
        """Make all that was written survive a power loss."""
        with self._disk_errors():
            for log in (self._manifest, self._quarantine, self._pending):
                if log is not None:
                    log.sync()

    def finish(self) -> None:
        """End a run that saw every picture: the quarantine then holds its failures and no other."""
        with self._disk_errors():
            failed = [self._failed[path] for path in sorted(self._failed)]
            if failed != read_log(self.folder / QUARANTINE):
                self._quarantine.rewrite(failed)

    def take_in(self) -> None:
        """Take in the journals that the run's other processes have closed."""
        with self._disk_errors():
            self._unsettle()
            self._sync_texts()
            self._take_in(sorted(self.folder.glob(JOURNALS)))
            self.ids |= labelled_ids(self.folder)
            for record in self._take_in_quarantines():
                self._failed[record["path"]] = record

    def close(self) -> None:
        """Settle and release the folder; harmless when repeated."""
        with self._disk_errors(), contextlib.ExitStack() as stack:
            stack.callback(self._manifest.close)  # last: it holds the lock that others ask for
            stack.callback(self._remove_empty_quarantine)
            stack.callback(self._quarantine.close)
            self._merge_pending()
            self._sync_texts()
            (self.folder / UNSETTLED).unlink(missing_ok=True)
            self._settled = True
            self._edits.tell()

    def _remove_empty_quarantine(self) -> None:
        path = self.folder / QUARANTINE
        if path.exists() and path.stat().st_size == 0:
            path.unlink()

    def _take_in(self, journals: Iterable[Path]) -> None:
        """Put journals' records in their old ones' places, new ones behind; repeatable."""
        journals = list(journals)
        fresh: dict[str, tuple[str, Path, int, int]] = {}  # by id: path, where its line stands
        for journal in journals:
            position = 0
            for key, line in read_lines(journal):
                path = str((parse_line(line) or {}).get("path", ""))
                place = (path, journal, position, len(line))
                fresh[key] = min(fresh.get(key, place), place, key=lambda place: place[0])
                position += len(line)
        if fresh:
            self._manifest.rewrite(self._merged(fresh))
            self._edits.old.forget()
        for journal in journals:
            journal.unlink()
            journal.with_name(f".{journal.name}.lock").unlink(missing_ok=True)

    def _merged(self, fresh: dict[str, tuple[str, Path, int, int]]) -> Iterator[bytes]:
        with contextlib.ExitStack() as stack:
            files = {
                journal: stack.enter_context(open(journal, "rb"))
                for journal in {place[1] for place in fresh.values()}
            }

            def line_at(place: tuple[str, Path, int, int]) -> bytes:
                files[place[1]].seek(place[2])
                return files[place[1]].read(place[3]).rstrip(b"\n") + b"\n"

            for key, line in read_lines(self.folder / MANIFEST):
                yield line_at(fresh.pop(key)) if key in fresh else line
            for key in sorted(fresh, key=lambda key: (fresh[key][0], key)):
                yield line_at(fresh[key])

    def _take_in_quarantines(self) -> list[Record]:
        found = []
        for path in sorted(self.folder.glob(QUARANTINES)):
            found += list(iterate_log(path))
        fresh = [record for record in found if record not in self._quarantine.records]
        if fresh:
            self._quarantine.append(*sorted(fresh, key=lambda record: str(record["path"])))
        for path in self.folder.glob(QUARANTINES):
            path.unlink()
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        return found


@contextlib.contextmanager
def disk_errors(folder: Path, ids: set[str]) -> Iterator[None]:
    """Turn an OSError into one line that says what is safe.

    Raises:
        ElfError: In place of it.
    """
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in _FULL else "mend that"
        raise ElfError(
            f"{folder}: could not write ({error.strerror or error}); {len(ids)} "
            f"labels are safe: {remedy}, then run the same command again to go on"
        ) from error
