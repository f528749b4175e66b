"""What one of several processes writes into a labels folder: text files and a journal.

The process that holds the manifest takes the journals in when all are done, or, if the run was
stopped, when the next one starts.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from elf.decisions import apply_decision, read_decisions
from elf.files import AppendLog
from elf.labeltext import write_text
from elf.manifest import Record, disk_errors


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
        self._decisions = read_decisions(self.folder)
        with self._disk_errors():
            path = self.folder / f".journal-{rank:05}.jsonl"
            self._log = AppendLog(path, keep_records=False)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with disk_errors(self.folder, self.ids):
            yield

    def write(self, record: Record) -> bool:
        """Write a picture's text file, then its line, as :meth:`LabelFolder.write` does."""
        if record["id"] in self.ids:
            return False
        record = apply_decision(record, self._decisions.get(record["id"]))
        with self._disk_errors():
            write_text(self.folder, record)
            self._log.append(record)
        self.ids.add(record["id"])
        return True

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
        with self._disk_errors():
            for log in (self._log, self._quarantine):
                if log is not None:
                    log.close()
