"""The labels folder: one text file a picture, the manifest, the quarantine.

Crash-safe by order: a picture's text file is whole before its manifest line is appended, and
nothing counts as labelled without that line. The new record of a picture that has one already is
on the disk, in a journal, before its text is written over: what an interruption left of the text
is completed from there, and never taken for a person's edit (:mod:`elf.labels.handedits`). Only
:class:`LabelFolder` writes the manifest; further processes of the same run write journals
(:mod:`elf.labels.journal`), which it takes in.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from elf.errors import ElfError
from elf.files import AppendLog, explain_failed_writes, iterate_log, read_log, read_small
from elf.labels.decisions import apply_decision, is_left_out, read_decisions
from elf.labels.handedits import HandEdits, OldRecords, Places, checked_record
from elf.labels.labeltext import Label, rewrite_text, write_text, write_texts
from elf.labels.records import (
    JOURNALS,
    MANIFEST,
    QUARANTINE,
    JournalRecords,
    Record,
    labelled_ids,
    read_lines,
)
from elf.platforms import sync_disks

QUARANTINES = ".quarantine-*.jsonl"
PENDING = ".journal-relabelled.jsonl"
"""New records of pictures that the manifest holds already, until they replace the old ones."""
UNSETTLED = ".unsettled"
"""Stands there while text files may not have reached the disk."""

_LEFT_OVER = re.compile(r"\.([0-9a-f]{16}\.txt|(manifest|quarantine)\.jsonl)\.\w+\.tmp")


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
        self._torn = False
        with self._disk_errors(), contextlib.ExitStack() as stack:
            manifest = AppendLog(self.folder / MANIFEST, keep_records=False)
            self._manifest = stack.enter_context(manifest)
            self._quarantine = stack.enter_context(AppendLog(self.folder / QUARANTINE))
            stack.callback(self._close_pending)
            self._decisions = read_decisions(self.folder)
            old = OldRecords(self.folder / MANIFEST)
            stack.callback(old.forget)
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
        unsettled = UNSETTLED in sizes or bool(journals)
        places: Places = {}
        suspect: dict[str, bool] = {}  # by id: whether a power loss spoilt the text
        position = 0
        for key, line in read_lines(self.folder / MANIFEST):
            places[key] = (position, len(line))
            position += len(line)
            size = sizes.get(f"{key}.txt")
            spoilt = bool(unsettled and size) and b"\0" in read_small(f"{self.folder}/{key}.txt")
            if spoilt or not size or key in self._decisions or b'"before_review"' in line:
                suspect[key] = spoilt
        self.ids |= places.keys()
        self._edits.old.know(places)
        for key, spoilt in suspect.items():
            record = self._edits.old.get(key)
            if record is None:
                raise ElfError(f"{self.folder / MANIFEST}: {key}: not a JSON object; mend it")
            wanted = apply_decision(record, self._decisions.get(key))
            if wanted != record:
                wanted = self._edits.decided(record, old=record)
                self._pend(wanted)
            if wanted != record or spoilt or not (sizes.get(f"{key}.txt") or is_left_out(wanted)):
                self._unsettle()
                write_text(self.folder, wanted)
        self._merge_pending()

    def _complete(self, journals: Iterable[Path]) -> None:
        """Write the texts that a kill kept from their new records."""
        for key, line in (entry for journal in journals for entry in read_lines(journal)):
            path = self.folder / MANIFEST  # where it would go
            record = checked_record(line, path, key) if key in self._edits.old else None
            if record is not None:
                self._unsettle()
                write_text(self.folder, self._edits.completed(record))

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
        if self._close_pending() and not self._torn:
            self._settle()  # before their records replace the old ones
            self._take_in([self.folder / PENDING])

    def _settle(self) -> None:
        if (self.folder / UNSETTLED).exists():
            sync_disks()
            (self.folder / UNSETTLED).unlink()
        self._settled = True

    def _unsettle(self) -> None:
        if self._settled:
            (self.folder / UNSETTLED).touch()
            self._settled = False

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with explain_failed_writes(self.folder, self.ids, "label is", "labels are"):
            yield

    @property
    def dropped(self) -> set[str]:
        """The ids of labelled pictures that a decision drops."""
        return {key for key in self.ids if self._decisions.get(key, {}).get("keep") is False}

    def write(self, *records: Record) -> list[bool]:
        """Write pictures' text files, then their manifest lines, as the reviewer wants them.

        Args:
            records: ``id``, ``tags`` and whatever else the manifest holds about a picture.

        Returns:
            For each of them, False if the run has written that id already: nothing is done.
        """
        again: list[Label] = []
        fresh: list[Record] = []
        new = []
        with self._disk_errors():
            self._unsettle()
            for record in records:
                key = record["id"]
                new.append(key not in self._written)
                self._written.add(key)
                if new[-1] and key in self.ids:
                    again.append(self._edits.label(record))
                elif new[-1]:
                    fresh.append(apply_decision(record, self._decisions.get(key)))
            self._rewrite(again)
            write_texts(self.folder, fresh)
            if fresh:
                self._manifest.append(*fresh)
        self.ids |= {record["id"] for record in fresh}
        return new

    def _rewrite(self, labels: Sequence[Label]) -> None:
        """Write labelled pictures' texts anew, their records before."""
        if labels:
            self._torn = True  # if this fails, the next start completes it from the journal
            self._pend(*(label.record for label in labels))
            self.sync()
            for label in labels:
                rewrite_text(self.folder, label)
            self._torn = False

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
            self._settle()
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
            stack.callback(self._edits.old.forget)
            self._merge_pending()
            self._settle()
            self._edits.tell()

    def _remove_empty_quarantine(self) -> None:
        path = self.folder / QUARANTINE
        if path.exists() and path.stat().st_size == 0:
            path.unlink()

    def _take_in(self, journals: Sequence[Path]) -> None:
        """Put journals' records in their old ones' places, new ones behind; repeatable."""
        self._edits.old.forget()
        with JournalRecords(journals) as fresh:
            if fresh.places:
                self._manifest.rewrite(fresh.merged_into(self.folder / MANIFEST))
        for journal in journals:
            journal.unlink()
            journal.with_name(f".{journal.name}.lock").unlink(missing_ok=True)

    def _take_in_quarantines(self) -> list[Record]:
        found = []
        for path in sorted(self.folder.glob(QUARANTINES)):
            for number, record in enumerate(iterate_log(path), 1):
                if not isinstance(record.get("path"), str):
                    raise ElfError(f"{path}, line {number}: no `path`; delete that line")
                found.append(record)
        fresh = [record for record in found if record not in self._quarantine.records]
        if fresh:
            self._quarantine.append(*sorted(fresh, key=lambda record: str(record["path"])))
        for path in self.folder.glob(QUARANTINES):
            path.unlink()
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        return found
