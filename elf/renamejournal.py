"""What ``elf rename`` did, run by run: a hidden log in the pictures' folder.

A run notes all its renames before the first of them, and a mark behind the last:

    {"renames": 2}
    {"from": "a.png", "to": "0f3c….png"}
    {"from": "b/c.jpg", "to": "b/77aa….jpg"}
    {"done": true}

The number tells a journal that was cut from a whole one; older versions did not write it.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.files import AppendLog, explain_disk_errors

JOURNAL = ".elf-rename.jsonl"
DONE = {"done": True}
_REMEDY = (
    "every picture has its old or its new name: mend that, then run the same command again to go on"
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Move:
    """A file's old and new path, relative to the pictures' folder."""

    source: str
    target: str

    def is_done(self, root: Path) -> bool:
        """Whether the file has its new name."""
        return (root / self.target).exists() and not (root / self.source).exists()


@dataclass
class Batch:
    """The renames of one run.

    Attributes:
        announced: How many there should be; None if that was not noted.
        moves: Those that stand in the journal.
        done: Whether the run came to its end.
    """

    announced: int | None = None
    moves: list[Move] = field(default_factory=list)
    done: bool = False

    @property
    def lost(self) -> int:
        """How many the journal was cut of."""
        return 0 if self.announced is None else max(0, self.announced - len(self.moves))

    def records(self) -> list[Record]:
        """Return it as it stands in a journal."""
        head = [] if self.announced is None else [{"renames": self.announced}]
        moves = [{"from": move.source, "to": move.target} for move in self.moves]
        return [*head, *moves, *([DONE] if self.done else [])]


@contextlib.contextmanager
def open_journal(root: Path) -> Iterator[AppendLog]:
    """Open the journal, which one process at a time can; an empty one is not left behind.

    Raises:
        ElfError: If another process has it open, or the disk refuses.
    """
    path = root / JOURNAL
    with explain_disk_errors(root, "could not rename", _REMEDY):
        journal = AppendLog(path)
        try:
            with journal:
                for half in root.glob(f".{JOURNAL}.*.tmp"):  # a rewriting that was killed
                    half.unlink()
                yield journal
        finally:
            if not path.stat().st_size:
                # the journal last: while it is there, the next run clears up
                for name in (f".{JOURNAL}.lock", JOURNAL):
                    (root / name).unlink(missing_ok=True)


def read_batches(journal: AppendLog) -> list[Batch]:
    """Return the runs that a journal holds.

    Raises:
        ElfError: If a line says anything else, or leads out of the folder, with its number.
    """
    batches: list[Batch] = []
    root = journal.path.parent.resolve()
    for number, record in enumerate(journal.records, 1):
        if _is_count(record.get("renames")):
            batches.append(Batch(record["renames"]))
            continue
        if not batches or batches[-1].done:
            batches.append(Batch())
        if record == DONE:
            batches[-1].done = True
        elif all(_is_inside(root, record.get(key)) for key in ("from", "to")):
            batches[-1].moves.append(Move(record["from"], record["to"]))
        else:  # a folder of a stranger may hold a journal
            raise ElfError(
                f"{journal.path}, line {number}: no rename of a file in this folder; delete that "
                "line, and its file keeps its name"
            )
    return batches


def take_up(root: Path, journal: AppendLog) -> list[Move]:
    """Return the renames of a run that was cut off, which are to be completed.

    One that was cut off while it noted them had done none: its notes are taken out.

    Raises:
        ElfError: If the journal is damaged.
    """
    batches = read_batches(journal)
    if not batches or batches[-1].done:
        return []
    begun = batches[-1]
    if begun.lost and not any(move.is_done(root) for move in begun.moves):
        journal.rewrite(_records(batches[:-1]))
        return []
    return begun.moves


def _records(batches: Iterable[Batch]) -> Iterator[Record]:
    return (record for batch in batches for record in batch.records())


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_inside(root: Path, name: object) -> bool:
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = Path(name)
    if path.anchor or ".." in path.parts:
        return False
    return (root / path).parent.resolve().is_relative_to(root)  # a folder in it may be a link
