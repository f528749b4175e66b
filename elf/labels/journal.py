"""What one of several processes writes into a labels folder: text files and a journal.

The process that holds the manifest takes the journals in when all are done, or, if the run was
stopped, when the next one starts.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from elf.files import AppendLog, explain_failed_writes
from elf.labels.decisions import read_decisions
from elf.labels.handedits import HandEdits, OldRecords
from elf.labels.labeltext import Label, rewrite_text, write_texts
from elf.labels.records import MANIFEST, Record


class Journal:
    """The journal of one process of a run.

    Attributes:
        ids: What it holds.

    Raises:
        ElfError: If another process writes it, or the disk is full.
    """

    def __init__(self, folder: str | Path, rank: int) -> None:
        self.folder = Path(folder)
        self.ids: set[str] = set()
        self._rank = rank
        self._quarantine: AppendLog | None = None
        old = OldRecords(self.folder / MANIFEST)  # it stays as it is while journals are written
        self._edits = HandEdits(self.folder, old, read_decisions(self.folder))
        with self._disk_errors():
            path = self.folder / f".journal-{rank:05}.jsonl"
            self._log = AppendLog(path, keep_records=False)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with explain_failed_writes(self.folder, self.ids, "label is", "labels are"):
            yield

    def write(self, *records: Record) -> list[bool]:
        """Write pictures' text files and lines, as :meth:`LabelFolder.write` does."""
        again: list[Label] = []
        fresh: list[Record] = []
        new, ids = [], {record["id"] for record in records} & self.ids
        with self._disk_errors():
            for record in records:
                new.append(record["id"] not in ids)
                ids.add(record["id"])
                if new[-1] and record["id"] in self._edits.old:
                    again.append(self._edits.label(record))
                elif new[-1]:
                    fresh.append(self._edits.decided(record))
            if again:
                self._log.append(*(label.record for label in again))
                self._log.sync()  # before their texts are written over
                for label in again:
                    rewrite_text(self.folder, label)
            write_texts(self.folder, fresh)
            self._log.append(*fresh)
        self.ids |= ids
        return new

    def quarantine(self, record: Record) -> None:
        """Note a picture that cannot be used."""
        with self._disk_errors():
            if self._quarantine is None:
                path = self.folder / f".quarantine-{self._rank:05}.jsonl"
                self._quarantine = AppendLog(path, keep_records=False)
            self._quarantine.append(record)

    def sync(self) -> None:
        """Make all that was written survive a power loss."""
        with self._disk_errors():
            for log in (self._log, self._quarantine):
                if log is not None:
                    log.sync()

    def close(self) -> None:
        """Release the journal; harmless when repeated."""
        self._edits.old.forget()
        with self._disk_errors():
            for log in (self._log, self._quarantine):
                if log is not None:
                    log.close()
            self._edits.tell()
