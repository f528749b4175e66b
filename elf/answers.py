"""The file of answers: one JSON object a line, whole lines, written by one process.

Several processes of a run write journals beside it, which the first takes in when all are done or,
if the run was stopped, when the next one starts. At the end the lines stand in the order in which
was asked.
"""

import contextlib
import glob
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.files import AppendLog, explain_failed_writes, iterate_log, parse_line, write_atomic

Record = dict[str, Any]
Identity = Mapping[str, Mapping[str, Any] | None]
"""Who answers and how, by the keys that each line has: ``model``, ``adapter``, ``generation``."""

_CALLED = "name"
"""Of an identity: what somebody calls it, which changes nothing."""
AT_ONCE = 1000
"""Answers that are taken in at once."""


def answered(path: str | Path) -> dict[str, str]:
    """Return the ids of the prompts that have an answer, each with the digest of its row.

    Raises:
        ElfError: If a line of the file, or of a journal beside it, is damaged.
    """
    path = Path(path)
    return {
        record["id"]: record["asked"]
        for part in (path, *_journals(path))
        for record in _records(part)
    }


def journal(path: str | Path, rank: int) -> Path:
    """Return the journal of one of several processes."""
    return Path(path).with_name(f".{Path(path).name}.{rank:05}")


def quarantine(path: str | Path) -> Path:
    """Return the file of the prompts that could not be answered, with the reasons."""
    return Path(path).with_suffix(".quarantine.jsonl")


def _journals(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9]' * 5}"))


def _records(path: Path) -> Iterator[Record]:
    for number, record in enumerate(iterate_log(path), 1):
        for key in ("id", "asked"):
            if not isinstance(record.get(key), str):
                raise ElfError(
                    f"{path}, line {number}: no `{key}`, so it is no answer of Elf's; name "
                    "another file in data.answers"
                )
        yield record


class AnswerLog:
    """A file, or a journal, to which one process appends answers.

    A torn last line that a crash left is cut off when it is opened.

    Args:
        path: The file.
        identity: Who answers, and how.

    Attributes:
        ids: Of the prompts that are answered in it.

    Raises:
        ElfError: If another process writes it, or it has answers of another model, adapter or
            configuration.
    """

    def __init__(self, path: str | Path, identity: Identity) -> None:
        self.path, self._identity = Path(path), identity
        self.ids: set[str] = set()
        with self._disk_errors():
            self._log = AppendLog(self.path, keep_records=False)
            for left in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
                left.unlink(missing_ok=True)  # of a kill
            try:
                for record in _records(self.path):
                    self._refuse_other(record)
                    self.ids.add(record["id"])
            except BaseException:
                self._log.close()
                raise

    def _refuse_other(self, record: Record) -> None:
        for key, mine in self._identity.items():
            theirs = record.get(key)
            if _essence(theirs) != _essence(mine):
                raise ElfError(
                    f"{self.path}: its answers are of another {key} ({_shown(theirs)}, and this "
                    f"run has {_shown(mine)}); name another file in data.answers, or delete that "
                    "one to begin anew"
                )

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with explain_failed_writes(self.path, self.ids, "answer is", "answers are"):
            yield

    def write(self, *records: Record) -> None:
        """Append answers, all or none; those of prompts that have one are passed over."""
        fresh: dict[str, Record] = {}
        for each in records:
            if each["id"] not in self.ids:
                fresh.setdefault(each["id"], each)
        with self._disk_errors():
            self._log.append(*fresh.values())
            self.ids |= fresh.keys()
            self._log.sync()

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        with self._disk_errors():
            self._log.close()

    def take_in(self) -> None:
        """Take in the journals that other processes have closed; repeatable."""
        with self._disk_errors():
            for part in _journals(self.path):
                records = _records(part)
                while some := list(itertools.islice(records, AT_ONCE)):
                    for record in some:
                        self._refuse_other(record)
                    self.write(*some)
                part.unlink()
                part.with_name(f".{part.name}.lock").unlink(missing_ok=True)

    def finish(self, order: Iterable[str], refused: Iterable[Record]) -> None:
        """Put the lines in the order of the prompts, those of no prompt behind.

        Args:
            order: The prompts' ids.
            refused: What could not be answered.
        """
        with self._disk_errors():
            lines = _places(self.path)
            wanted = list(dict.fromkeys((*(key for key in order if key in lines), *lines)))
            if wanted != list(lines):
                self._log.rewrite(_in_order(self.path, wanted, lines))
            text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in refused)
            if text:
                write_atomic(quarantine(self.path), text)
            else:
                quarantine(self.path).unlink(missing_ok=True)


def _essence(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    return {key: value for key, value in part.items() if key != _CALLED}


def _shown(part: Any) -> str:
    if not part:
        return "none"
    shown = [f"{key} {value}" for key, value in part.items()] if isinstance(part, Mapping) else []
    return ", ".join(shown) or ascii(part)[:60]


def _places(path: Path) -> dict[str, tuple[int, int]]:
    places, position = {}, 0
    with open(path, "rb") as file:
        for line in file:
            record = parse_line(line) or {}
            places[record["id"]] = (position, len(line))
            position += len(line)
    return places


def _in_order(
    path: Path, order: Iterable[str], places: Mapping[str, tuple[int, int]]
) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for key in order:
            position, length = places[key]
            file.seek(position)
            yield file.read(length)
